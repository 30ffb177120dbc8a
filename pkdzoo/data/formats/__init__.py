"""Annotation formats, one file each: COCO, Pascal VOC, YOLO. ``read`` reads any of them."""
