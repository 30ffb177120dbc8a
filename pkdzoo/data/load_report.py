"""Counts of what was loaded from an annotation file and what was left out."""

from __future__ import annotations

from dataclasses import dataclass, field

from pkdzoo.utils.text import quote_some


@dataclass
class LoadReport:
    """Counts of one data set. ``str(report)`` lists only those that are not zero.

    Attributes:
        source: the annotation file.
        images, annotations: records in the file.
        boxes: kept boxes; ``crowd`` of them are crowd regions, ``clipped`` of them extended over the image's edge by
            more than half a pixel.
        per_class: kept boxes by class name.
        no_size, outside, thin: boxes left out because a width or height is not above zero, because they lie outside the
            image, or because they are thinner than a pixel.
        ignored, other_classes, without_image: annotations left out because they are marked ``ignore``, because of their
            class, or because no image has their image id.
        without_mask: objects without a segmentation although masks were requested; they are treated as crowd.
        other_size_masks, invalid_masks: segmentations that cannot be used: run lengths of another size than their
            image; polygons and run lengths that are damaged (not numbers, far outside any image, too few or too many
            pixels). Their objects are treated as crowd, too.
        other_areas: boxes whose annotated area cannot be that of their object: zero, or in another unit than pixels.
        crowd_only: classes that have boxes, all of which are crowd regions.
        duplicate_images, duplicate_annotations: records that repeat an id.
        empty_images: images without a box, left out if ``dropped_empty``.
        small_images: images left out because of their size.
        found_names: image names that were found by their last parts, with the paths inside the image folder.

    Example:
        >>> from pkdzoo.data import LoadReport
        >>> print(LoadReport("train.json", images=3, boxes=4, thin=1, per_class={"cat": 4}))
        train.json: 4 boxes of 1 classes, 3 images; 1 boxes left out: thinner than a pixel
    """

    source: str
    images: int = 0
    annotations: int = 0
    boxes: int = 0
    crowd: int = 0
    clipped: int = 0
    no_size: int = 0
    outside: int = 0
    thin: int = 0
    ignored: int = 0
    other_classes: int = 0
    without_image: int = 0
    without_mask: int = 0
    other_size_masks: int = 0
    invalid_masks: int = 0
    other_areas: int = 0
    duplicate_images: int = 0
    duplicate_annotations: int = 0
    empty_images: int = 0
    dropped_empty: bool = False
    small_images: int = 0
    found_names: dict[str, str] = field(default_factory=dict)
    per_class: dict[str, int] = field(default_factory=dict)
    crowd_only: list[str] = field(default_factory=list)

    def reasons(self) -> str:
        """What was left out or looks wrong, one clause each; empty where there is nothing to report."""
        left_out = "left out" if self.dropped_empty else "kept"
        # a few areas differ in any large data set; more of them change the numbers of an evaluation
        other_areas = self.other_areas if self.other_areas > 0.01 * self.boxes else 0
        crowd_only = quote_some(self.crowd_only)
        moved = next((f"{name!r:.80} as {path!r:.80}" for name, path in self.found_names.items()), "")
        clauses = (
            (self.no_size, "boxes left out: width or height is not above zero"),
            (self.outside, "boxes left out: outside their image"),
            (self.thin, "boxes left out: thinner than a pixel"),
            (self.clipped, "boxes clipped to their image"),
            (self.ignored, "annotations left out: marked 'ignore'"),
            (self.other_classes, "annotations left out: of other classes"),
            (self.without_image, "annotations left out: their image_id belongs to no image"),
            (self.without_mask, "objects have no segmentation and are ignored, like crowd"),
            (self.other_size_masks, "segmentations are of another size than their image and are ignored, like crowd"),
            (self.invalid_masks, "segmentations are damaged (coordinates or run lengths) and are ignored, like crowd"),
            (other_areas, "areas do not fit their boxes; APs, APm and APl of an evaluation follow these areas"),
            (len(self.crowd_only), f"classes have only crowd regions, which are not learned ({crowd_only})"),
            (self.duplicate_images, "image records are repeated"),
            (self.duplicate_annotations, "annotations repeat an id"),
            (self.small_images, "images left out: too small"),
            (len(self.found_names), f"image names are found by their last parts, e.g. {moved}"),
            (self.empty_images, f"images have no box ({left_out})"),
        )
        return "; ".join(f"{count} {what}" for count, what in clauses if count)

    def __str__(self) -> str:
        crowd = f" ({self.crowd} crowd)" if self.crowd else ""
        head = f"{self.source}: {self.boxes} boxes{crowd} of {len(self.per_class)} classes, {self.images} images"
        reasons = self.reasons()
        return f"{head}; {reasons}" if reasons else head
