"""Annotation formats, one file each: COCO, Pascal VOC, YOLO."""
