"""Annotation formats, one file each; the table in ``read`` lists them, and ``read`` reads any of them."""
