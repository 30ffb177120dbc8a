"""Losses as pure functions. The caller applies weights and normalizers."""

from pkdzoo.losses.correlation import normalize_channels, pearson, pearson_correlation
from pkdzoo.losses.detection import (
    cross_entropy_of_probabilities,
    distribution_focal,
    focal_of_probabilities,
    giou_loss,
    iou_log_loss,
    one_hot_quality,
    quality_focal,
    quality_focal_of_probabilities,
    sigmoid_focal,
)
from pkdzoo.losses.distillation import cwd, distilled_quality_focal, kl_divergence, norm_kl
from pkdzoo.losses.normalized_cwd import norm_cwd

__all__ = [
    "cross_entropy_of_probabilities",
    "cwd",
    "distilled_quality_focal",
    "distribution_focal",
    "focal_of_probabilities",
    "giou_loss",
    "iou_log_loss",
    "kl_divergence",
    "norm_cwd",
    "norm_kl",
    "normalize_channels",
    "one_hot_quality",
    "pearson",
    "pearson_correlation",
    "quality_focal",
    "quality_focal_of_probabilities",
    "sigmoid_focal",
]
