"""Detections to COCO numbers."""

from pkdzoo.evaluation.coco import METRICS, CocoEvaluator
from pkdzoo.evaluation.metrics import write_metrics

__all__ = ["METRICS", "CocoEvaluator", "write_metrics"]
