"""pkdzoo: a model zoo of distilled object detectors."""

from pkdzoo.distill import Distiller, Teacher, list_methods
from pkdzoo.inference.result import Result
from pkdzoo.models._factory import (
    create_detector,
    create_pair,
    create_student,
    create_teacher,
    from_pretrained,
)
from pkdzoo.models._loading import load_backbone, load_checkpoint
from pkdzoo.models._registry import get_weights, is_detector, list_detectors, list_pairs
from pkdzoo.models._zoo_table import results
from pkdzoo.models.detector import Detector
from pkdzoo.structures import Batch, Detections, FeaturePyramid, Instances
from pkdzoo.version import __version__

__all__ = [
    "Batch",
    "Detections",
    "Detector",
    "Distiller",
    "FeaturePyramid",
    "Instances",
    "Result",
    "Teacher",
    "__version__",
    "create_detector",
    "create_pair",
    "create_student",
    "create_teacher",
    "from_pretrained",
    "get_weights",
    "is_detector",
    "list_detectors",
    "list_methods",
    "list_pairs",
    "load_backbone",
    "load_checkpoint",
    "results",
]
