"""COCO evaluation of detections and of results files."""

from pkdzoo.evaluation.coco import METRICS, CocoEvaluator
from pkdzoo.evaluation.metrics import write_metrics
from pkdzoo.evaluation.results_file import evaluate_results, read_results

__all__ = ["METRICS", "CocoEvaluator", "evaluate_results", "read_results", "write_metrics"]
