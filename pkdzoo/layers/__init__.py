"""Small modules that several detectors share."""
