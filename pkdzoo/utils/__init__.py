"""Small helpers without a subject of detection: files, retries, suggestions."""
