"""Small trainable parts that several detectors share."""
