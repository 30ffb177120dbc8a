"""pkdzoo: a model zoo of distilled object detectors.

Public names and subpackages are imported at first use, so that ``import pkdzoo`` and the command line do not wait for
torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pkdzoo.utils.lazy import lazy_attributes
from pkdzoo.version import __version__

if TYPE_CHECKING:
    from pkdzoo import app as app
    from pkdzoo import checkpoints as checkpoints
    from pkdzoo import data as data
    from pkdzoo import dataset_tools as dataset_tools
    from pkdzoo import distill as distill
    from pkdzoo import evaluation as evaluation
    from pkdzoo import export as export
    from pkdzoo import figures as figures
    from pkdzoo import hub as hub
    from pkdzoo import inference as inference
    from pkdzoo import layers as layers
    from pkdzoo import losses as losses
    from pkdzoo import models as models
    from pkdzoo import ops as ops
    from pkdzoo import structures as structures
    from pkdzoo import training as training
    from pkdzoo import utils as utils
    from pkdzoo.distill import Distiller, Student, Teacher, list_methods
    from pkdzoo.distill.create import create_teacher
    from pkdzoo.inference.result import Result
    from pkdzoo.models._factory import (
        create_detector,
        create_pair,
        create_student,
        from_pretrained,
    )
    from pkdzoo.models._loading import load_backbone, load_checkpoint
    from pkdzoo.models._registry import get_weights, is_detector, list_detectors, list_pairs
    from pkdzoo.models._zoo_table import results
    from pkdzoo.models.detector import Detector
    from pkdzoo.structures import Batch, Detections, FeaturePyramid, Instances

__all__ = [
    "Batch",
    "Detections",
    "Detector",
    "Distiller",
    "FeaturePyramid",
    "Instances",
    "Result",
    "Student",
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

_MODULES = {
    "Batch": "pkdzoo.structures",
    "Detections": "pkdzoo.structures",
    "Detector": "pkdzoo.models.detector",
    "Distiller": "pkdzoo.distill",
    "FeaturePyramid": "pkdzoo.structures",
    "Instances": "pkdzoo.structures",
    "Result": "pkdzoo.inference.result",
    "Student": "pkdzoo.distill",
    "Teacher": "pkdzoo.distill",
    "create_detector": "pkdzoo.models._factory",
    "create_pair": "pkdzoo.models._factory",
    "create_student": "pkdzoo.models._factory",
    "create_teacher": "pkdzoo.distill.create",
    "from_pretrained": "pkdzoo.models._factory",
    "get_weights": "pkdzoo.models._registry",
    "is_detector": "pkdzoo.models._registry",
    "list_detectors": "pkdzoo.models._registry",
    "list_methods": "pkdzoo.distill",
    "list_pairs": "pkdzoo.models._registry",
    "load_backbone": "pkdzoo.models._loading",
    "load_checkpoint": "pkdzoo.models._loading",
    "results": "pkdzoo.models._zoo_table",
}
_SUBPACKAGES = (
    "app",
    "checkpoints",
    "data",
    "dataset_tools",
    "distill",
    "evaluation",
    "export",
    "figures",
    "hub",
    "inference",
    "layers",
    "losses",
    "models",
    "ops",
    "structures",
    "training",
    "utils",
)
_load_name = lazy_attributes(__name__, _MODULES)

if not TYPE_CHECKING:  # a type checker would take every name of the package for existing

    def __getattr__(name: str) -> Any:
        return import_module(f"{__name__}.{name}") if name in _SUBPACKAGES else _load_name(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBPACKAGES})
