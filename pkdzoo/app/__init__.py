"""The browser demo: one image, several detectors side by side. Needs the extra ``app`` (Gradio)."""
