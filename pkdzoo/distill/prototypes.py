"""Prototypes of Global Knowledge: a few objects of each class that represent the class in student and teacher.

Candidates are the objects of a class, each as one vector per network and level (the mean of the map over its box).
Those in the sparse part of either space are left out; from the rest a joint matching pursuit picks the ones that
explain the vectors of both spaces with nearly the same coefficients. Equal to the picks of the released code.

Differs from it in the source of candidates: there an index of the annotations is drawn once and read again without
augmentation each epoch, with the teacher's maps cached on disk; here both networks run on training batches. The
threshold on score (0.9) has no effect there, since objects are annotated ones, and is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from pkdzoo.distill.masks import objects_of
from pkdzoo.models.detector import Detector
from pkdzoo.ops.reduce import world_size
from pkdzoo.structures import Batch
from pkdzoo.utils.precision import float32_or_wider

WIDTH = 0.1  # of the density's kernel, in cosine distance
QUANTILE = 0.4  # candidates up to this quantile of the density are left out


@torch.no_grad()
def match_prototypes(a: Tensor, b: Tensor, count: int, alpha: float = 10.0) -> Tensor:
    """Joint matching pursuit over two spaces.

    In each of ``count`` rounds the candidate k is picked that minimizes, with the best coefficients w,

        ||R_a - a_k w_a||^2 + ||R_b - b_k w_b||^2 + alpha ||w_a - w_b||^2

    and its part is subtracted from the residuals R, which begin as all vectors. For unit vectors the minimum is closed:
    ``w_a = ((1 + alpha) i_a + alpha i_b) / (1 + 2 alpha)`` with ``i_a = a_k . R_a``, and likewise for b.

    Args:
        a: (N, Da) vectors of N objects in one space; they are normalized to length 1.
        b: (N, Db) the same objects in the other.
        count: number of picks.
        alpha: weight of the agreement between the coefficients of both spaces.

    Returns:
        (count,) int64 indices into the objects; one may be picked again. Empty for N = 0.

    Raises:
        ValueError: when a and b are not matrices of equally many rows.

    Example:
        >>> import torch
        >>> from pkdzoo.distill import match_prototypes
        >>> student = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> match_prototypes(student, student.flip(1), count=2).shape
        torch.Size([2])
    """
    if len(a) != len(b) or a.ndim != 2 or b.ndim != 2:
        raise ValueError(
            "match_prototypes needs the same N objects as (N, D) in both spaces, got "
            f"{tuple(a.shape)} and {tuple(b.shape)}"
        )
    if not len(a):
        return torch.zeros(0, dtype=torch.int64, device=a.device)
    a, b = F.normalize(float32_or_wider(a), dim=1), F.normalize(float32_or_wider(b), dim=1)
    candidates = (in_dense_part(a) & in_dense_part(b)).nonzero().squeeze(1)
    if not len(candidates):  # of very few objects none may be above the quantile in both spaces
        candidates = torch.arange(len(a), device=a.device)
    atoms_a, atoms_b = a[candidates], b[candidates]
    left_a, left_b = a, b
    picks = []
    for _ in range(count):
        inner_a, inner_b = atoms_a @ left_a.T, atoms_b @ left_b.T  # (K, N)
        w_a = ((1 + alpha) * inner_a + alpha * inner_b) / (1 + 2 * alpha)
        w_b = ((1 + alpha) * inner_b + alpha * inner_a) / (1 + 2 * alpha)
        # ||R - p w||^2 = ||R||^2 - 2 w . i + ||w||^2 for a unit vector p, and ||R||^2 is the same for all candidates
        cost = (w_a * (w_a - 2 * inner_a) + w_b * (w_b - 2 * inner_b) + alpha * (w_a - w_b).square()).sum(dim=1)
        best = int(cost.argmin())
        picks.append(candidates[best])
        left_a = left_a - w_a[best][:, None] * atoms_a[best]
        left_b = left_b - w_b[best][:, None] * atoms_b[best]
    return torch.stack(picks)


def in_dense_part(vectors: Tensor) -> Tensor:
    """True for unit vectors whose density is above the quantile: (N, D) -> (N,) bool."""
    density = torch.exp(-(((1 - vectors @ vectors.T) / WIDTH) ** 2)).sum(dim=1)
    return density > density.sort().values[int(QUANTILE * len(density))]


def pool_boxes(maps: Tensor, boxes: Tensor, scale: tuple[float, float]) -> Tensor:
    """The mean of a map over each box, from the location of its first corner to that of its last, both included.

    Args:
        maps: (C, h, w) of one image.
        boxes: (G, 4) xyxy pixels.
        scale: size of the map over size of the image, in x and y.

    Returns:
        (G, C) in float32, in float64 for a float64 map; the mean of at least one location per box.
    """
    _, h, w = maps.shape
    x, y = scale
    corners = (boxes.abs() * boxes.new_tensor([x, y, x, y])).trunc().long()
    left, top = corners[:, 0].clamp(max=w - 1), corners[:, 1].clamp(max=h - 1)
    right, bottom = (corners[:, 2] + 1).clamp(max=w), (corners[:, 3] + 1).clamp(max=h)
    # Sums over rectangles from one table of cumulative sums; float64, since they are differences of large numbers.
    wide = torch.float32 if maps.device.type == "mps" else torch.float64
    table = F.pad(maps.to(wide).cumsum(dim=1).cumsum(dim=2), (1, 0, 1, 0))  # (C, h+1, w+1)
    total = table[:, bottom, right] - table[:, top, right] - table[:, bottom, left] + table[:, top, left]
    return (total / ((right - left) * (bottom - top))).T.to(float32_or_wider(maps).dtype)


@dataclass
class Candidates:
    """Candidates of one class: vectors (L, C) of each object, of the student and of the teacher, and image count."""

    student: list[Tensor] = field(default_factory=list)
    teacher: list[Tensor] = field(default_factory=list)
    num_images: int = 0


@torch.no_grad()
def collect_candidates(
    student: Detector,
    teacher: Detector,
    loader: Iterable[Batch],
    pairs: list[tuple[int, int]],
    num_images: int,
    smallest: float,
    batches: int | None,
) -> list[Candidates]:
    """Run both networks over batches until every class has candidates from enough images.

    Args:
        student: in eval mode.
        teacher: in eval mode.
        loader: gives batches with instances.
        pairs: level numbers of student and teacher.
        num_images: maximum number of images per class over all processes.
        smallest: objects must be wider and higher than this, in pixels of the original image.
        batches: maximum number of batches.

    Returns:
        One per class of the student, of this process's images.
    """
    candidates = [Candidates() for _ in range(student.num_classes)]
    enough = -(-num_images // world_size())
    device = student.pixel_mean.device
    for number, batch in enumerate(loader):
        if (batches is not None and number >= batches) or all(c.num_images >= enough for c in candidates):
            break
        eligible = [eligible_objects(batch, i, candidates, enough, smallest) for i in range(len(batch))]
        useful = [i for i, objects in enumerate(eligible) if objects.any()]
        if not useful:
            continue
        batch = part_of_batch(batch, useful).to(device)
        levels = [model.trace(batch, "features").features.levels for model in (student, teacher)]
        height, width = batch.images.shape[-2:]
        for row, (i, objects) in enumerate(zip(useful, objects_of(batch))):
            kept = objects[eligible[i].to(device)]
            vectors = []
            for side, maps in enumerate(levels):
                used = [maps[pair[side]][row] for pair in pairs]
                pooled = [pool_boxes(m, kept.boxes, (m.shape[-1] / width, m.shape[-2] / height)) for m in used]
                vectors.append(torch.stack(pooled, dim=1).cpu())  # (G, L, C)
            for label in sorted(set(kept.labels.tolist())):
                of_class = (kept.labels == label).cpu()
                candidates[label].student.extend(vectors[0][of_class])
                candidates[label].teacher.extend(vectors[1][of_class])
                candidates[label].num_images += 1
    return candidates


def eligible_objects(batch: Batch, index: int, candidates: list[Candidates], enough: int, smallest: float) -> Tensor:
    """True for the objects of one image that become candidates: (G,) bool."""
    objects = objects_of(batch)[index]
    original = (batch.meta[index] if batch.meta else {}).get("original_size", batch.sizes[index])
    scale = [float(o) / s for o, s in zip(original, batch.sizes[index])]  # of height and width
    side = (objects.boxes[:, 2:] - objects.boxes[:, :2]) * objects.boxes.new_tensor([scale[1], scale[0]])
    missing = torch.tensor([c.num_images < enough for c in candidates], device=objects.labels.device)
    return (side > smallest).all(dim=1) & missing[objects.labels]


def part_of_batch(batch: Batch, index: list[int]) -> Batch:
    """Some images of a batch, by index."""
    instances = None if batch.instances is None else [batch.instances[i] for i in index]
    return Batch(batch.images[index], [batch.sizes[i] for i in index], instances)


def gather_candidates(candidates: list[Candidates]) -> list[Candidates]:
    """The candidates of all processes in the order of their ranks, the same on every process."""
    if world_size() == 1:
        return candidates
    gathered: list[list[Candidates]] = [[] for _ in range(world_size())]
    dist.all_gather_object(gathered, candidates)
    joined = []
    for parts in zip(*gathered):
        student = [vector for part in parts for vector in part.student]
        joined.append(
            Candidates(student, [v for part in parts for v in part.teacher], sum(p.num_images for p in parts))
        )
    return joined
