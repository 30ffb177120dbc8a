"""Detectors of transformers as students: RT-DETR, RT-DETRv2 and D-FINE, trained by their own losses.

Every image is squashed to the model's size and its boxes with it. The maps of the hybrid encoder are brought back to
where the batch has the image, with gradient. The losses need scipy. Checked with transformers 5.24.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pkdzoo.distill.adapters.preprocessor import Preprocessor, checked_size, preprocessor_config
from pkdzoo.distill.adapters.transformers import FAMILIES
from pkdzoo.distill.geometry import place_maps, squash_images
from pkdzoo.distill.student_base import ModuleStudent
from pkdzoo.hub.files import PREPROCESSOR
from pkdzoo.models._eval_mode import eval_mode
from pkdzoo.ops.nms import suppress
from pkdzoo.structures import Batch, Detections, Instances, PostProcess
from pkdzoo.utils.files import write_json
from pkdzoo.utils.precision import float32_or_wider

STRIDES = (8, 16, 32)


class TransformersStudent(ModuleStudent):
    """A detector of transformers.

    Args:
        net: the detector.
        input_size: (height, width) in pixels that every image is squashed to.
        mean: mean of each channel, of raw pixels 0-255.
        std: standard deviation of each channel, likewise.
    """

    has_features_alone = True

    def __init__(
        self,
        net: Any,
        input_size: tuple[int, int],
        mean: Sequence[float] = (0.0,) * 3,
        std: Sequence[float] = (255.0,) * 3,
    ) -> None:
        kind = str(getattr(getattr(net, "config", None), "model_type", type(net).__name__))
        known = {key: row for key, row in FAMILIES.items() if row.learns}
        if kind not in known or type(net).__name__ != known[kind].model:
            raise ValueError(
                f"transformers' {type(net).__name__} cannot be a student: an "
                f"{', '.join(row.model for row in known.values())} can"
            )
        self.input_size = checked_size(input_size, 32, "model_args")
        super().__init__(net, net.config.num_labels, mean, std, strides=strides_of(net))
        self.name = f"transformers:{kind}"
        self.postprocess_config = PostProcess(0.0, net.config.num_queries, 1.0, 100)

    def losses_and_maps(
        self, batch: Batch, instances: list[Instances]
    ) -> tuple[Mapping[str, Tensor], Sequence[Tensor]]:
        """The library's losses, those of denoising summed, and the maps of its encoder in the geometry of the batch."""
        net: Any = self.backbone
        targets = []
        for objects, (height, width) in zip(instances, batch.sizes):
            low, high = objects.boxes[:, :2], objects.boxes[:, 2:]
            boxes = torch.cat([(low + high) / 2, high - low], dim=1)
            targets.append(
                {"class_labels": objects.labels, "boxes": boxes / boxes.new_tensor([width, height, width, height])}
            )
        outputs = net(self.standardize(squash_images(batch, self.input_size)), labels=targets)
        return self._losses_of_any_batch(outputs.loss_dict), self._placed(outputs, batch)

    def maps(self, batch: Batch) -> Sequence[Tensor]:
        """The maps of the encoder in the geometry of the batch; the decoder runs as well, as the library has it."""
        net: Any = self.backbone
        return self._placed(net(self.standardize(squash_images(batch, self.input_size))), batch)

    def _placed(self, outputs: Any, batch: Batch) -> list[Tensor]:
        canvas, strides = (batch.images.shape[-2], batch.images.shape[-1]), strides_of(self.backbone)
        return [place_maps(m, batch.sizes, canvas, s) for m, s in zip(outputs.encoder_last_hidden_state, strides)]

    def _losses_of_any_batch(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Losses by names that are the same for every batch, because processes add up theirs.

        Those of denoising are summed over layers. A batch without objects has none; they are then zero, with a gradient
        for their parameters, for which DistributedDataParallel waits.
        """
        net: Any = self.backbone
        named: dict[str, Tensor] = {}
        for key, value in losses.items():
            name = f"loss_{re.sub(r'_dn_[0-9]+$', '_dn', key.removeprefix('loss_'))}"
            named[name] = named[name] + value if name in named else value
        if not (net.training and net.config.num_denoising):
            return named
        zero = torch.stack([p.float().sum() for p in net.model.denoising_class_embed.parameters()]).sum() * 0
        for kind in {re.sub(r"_(aux_[0-9]+|dn)$", "", name) for name in named}:
            named.setdefault(f"{kind}_dn", zero)
        return dict(sorted(named.items()))

    @torch.inference_mode()
    def detect(self, batch: Batch, config: PostProcess | None = None) -> list[Detections]:
        """The highest scores of all queries and classes, as the library's own post-processing.

        There is no NMS, unless ``config`` has an ``nms_threshold`` below 1, its default here.
        """
        net: Any = self.backbone
        config = config or self.postprocess_config
        more = config.max_detections > self.postprocess_config.max_detections  # than the library gives
        with eval_mode(self):
            outputs = net(self.standardize(squash_images(batch, self.input_size)))
        found = []
        rows = float32_or_wider(outputs.logits), float32_or_wider(outputs.pred_boxes)
        for logits, boxes, (height, width) in zip(*rows, batch.sizes):
            count = logits.numel() if more else len(logits)  # as many as queries, over all classes
            scores, index = logits.sigmoid().flatten().topk(count)
            center, half = boxes[index // logits.shape[1], :2], boxes[index // logits.shape[1], 2:] / 2
            corners = torch.cat([center - half, center + half], dim=1) * boxes.new_tensor([width, height] * 2)
            keep = scores > config.score_threshold
            candidates = Detections(corners[keep], scores[keep], (index % logits.shape[1])[keep])
            if config.nms_threshold < 1:
                candidates = suppress(candidates, config.nms_threshold, len(candidates))
            found.append(candidates[: config.max_detections])
        return found

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the model by its own ``save_pretrained``, with class names in its config and how it takes images."""
        net: Any = self.backbone
        net.config.id2label = dict(enumerate(self.label_names))
        net.config.label2id = {name: i for i, name in enumerate(self.label_names)}
        net.save_pretrained(folder)
        mean, std = (tuple(map(float, part)) for part in (self.pixel_mean, self.pixel_std))
        resize = None if self.resizes_itself else self.resize
        content = preprocessor_config(Preprocessor(self.input_size, mean, std, resize))
        write_json(Path(folder) / PREPROCESSOR, content)
        return Path(folder)


def strides_of(net: Any) -> tuple[int, ...]:
    """Strides of the maps of a model's encoder."""
    return tuple(int(stride) for stride in net.config.feat_strides)
