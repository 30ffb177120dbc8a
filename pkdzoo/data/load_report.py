"""Counts of what was loaded from an annotation file and what was left out."""

from __future__ import annotations

from dataclasses import dataclass, field

from pkdzoo.utils.text import counted, quote_some

Clause = tuple[int, str, str, str]  # a count, the words for one and for more, and what follows


@dataclass
class LoadReport:
    """Counts of one data set. ``str(report)`` lists only those that are not zero.

    It says what a training does; ``describe(evaluated=True)`` says what an evaluation on the same file does.

    Attributes:
        source: the annotation file.
        images, annotations: records in the file.
        boxes: kept boxes.
        crowd, clipped: of the kept boxes, crowd regions, and those that extended over the image's edge by more than
            half a pixel.
        per_class: kept boxes by class name.
        no_size, outside, thin: boxes that training leaves out because a width or height is not above zero, because
            they lie outside the image, or because they are thinner than a pixel.
        not_finite: those of ``no_size`` that hold NaN or infinity.
        ignored, other_classes, without_image: annotations left out because they are marked ``ignore``, because of their
            class, or because no image has their image id.
        without_mask: objects without a segmentation although masks were requested; they are treated as crowd.
        other_size_masks, invalid_masks: segmentations that cannot be used: run lengths of another size than their
            image; polygons and run lengths that are damaged (not numbers, far outside any image, too few or too many
            pixels). Their objects are treated as crowd, too.
        other_areas: boxes whose annotated area cannot be that of their object: zero, or in another unit than pixels.
        crowd_only: classes that have boxes, all of which are crowd regions.
        duplicate_images, duplicate_annotations: records that repeat an id.
        twice_listed: image files that are listed under several ids.
        empty_images: images without a box.
        dropped_empty: whether they were left out.
        small_images: images left out because of their size.
        unread_images: images whose size is unknown, because their files are missing or damaged.
        found_names: image names that were found by their last parts, with the paths inside the image folder.

    Example:
        >>> from pkdzoo.data import LoadReport
        >>> print(LoadReport("train.json", images=3, boxes=4, thin=1, per_class={"cat": 4}))
        train.json: 4 boxes of 1 class, 3 images; 1 box left out: thinner than a pixel
    """

    source: str
    images: int = 0
    annotations: int = 0
    boxes: int = 0
    crowd: int = 0
    clipped: int = 0
    no_size: int = 0
    not_finite: int = 0
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
    twice_listed: int = 0
    empty_images: int = 0
    dropped_empty: bool = False
    small_images: int = 0
    unread_images: int = 0
    found_names: dict[str, str] = field(default_factory=dict)
    per_class: dict[str, int] = field(default_factory=dict)
    crowd_only: list[str] = field(default_factory=list)

    def reasons(self, evaluated: bool = False) -> str:
        """What was left out or looks wrong, one clause each; empty where there is nothing to report.

        Args:
            evaluated: say what an evaluation does with the boxes, which keeps those that training leaves out or clips.
        """
        left_out = "left out" if self.dropped_empty else "kept"
        # a few areas differ in any large data set; more of them change the numbers of an evaluation
        other_areas = self.other_areas if self.other_areas > 0.01 * self.boxes else 0
        crowd_only = quote_some(self.crowd_only)
        as_crowd = "ignored, like crowd"
        moved = next((f"{name!r:.80} as {path!r:.80}" for name, path in self.found_names.items()), "")
        clauses = (
            *(self._evaluated_boxes() if evaluated else self._boxes_to_learn()),
            (self.other_classes, "annotation", "", " left out: of other classes"),
            (self.without_image, "annotation", "", " left out: the image_id belongs to no image"),
            (self.without_mask, "object has", "objects have", f" no segmentation: {as_crowd}"),
            (
                self.other_size_masks,
                "segmentation is",
                "segmentations are",
                f" of another size than the image: {as_crowd}",
            ),
            (self.invalid_masks, "segmentation is", "segmentations are", f" damaged: {as_crowd}"),
            (other_areas, "area does not fit its box", "areas do not fit their boxes", "; APs, APm, APl use the areas"),
            (
                len(self.crowd_only),
                "class has",
                "classes have",
                f" only crowd regions, which are not learned ({crowd_only})",
            ),
            (self.duplicate_images, "image record is", "image records are", " repeated"),
            (self.twice_listed, "image is", "images are", " listed twice, under different ids"),
            (self.duplicate_annotations, "annotation repeats", "annotations repeat", " an id"),
            (self.small_images, "image", "", " left out: too small"),
            (self.unread_images, "image", "", " cannot be read"),
            (
                len(self.found_names),
                "image name is found by its last parts",
                "image names are found by their last parts",
                f", e.g. {moved}",
            ),
            (self.empty_images, "image has", "images have", f" no box ({left_out})"),
        )
        return "; ".join(f"{counted(count, one, more)}{what}" for count, one, more, what in clauses if count)

    def _boxes_to_learn(self) -> tuple[Clause, ...]:
        return (
            (self.no_size, "box", "", " left out: width or height is not above zero"),
            (self.outside, "box", "", " left out: outside the image"),
            (self.thin, "box", "", " left out: thinner than a pixel"),
            (self.clipped, "box", "", " clipped to the image"),
            (self.ignored, "annotation", "", " left out: marked 'ignore'"),
        )

    def _evaluated_boxes(self) -> tuple[Clause, ...]:
        missed = (
            " cannot be found by any detector (no size, or outside the image): counted as missed, as in pycocotools"
        )
        return (
            (self.no_size - self.not_finite + self.outside, "box", "", missed),
            (self.not_finite, "box", "", " left out: NaN or infinity"),
            (self.ignored, "annotation", "", " marked 'ignore': neither found nor missed"),
        )

    def __str__(self) -> str:
        return self.describe()

    def describe(self, evaluated: bool = False) -> str:
        """Counts of boxes, classes and images, and the :meth:`reasons`, as one line."""
        crowd = f" ({self.crowd} crowd)" if self.crowd else ""
        boxes = self.boxes + (self.no_size - self.not_finite + self.outside + self.thin if evaluated else 0)
        head = f"{self.source}: {counted(boxes, 'box')}{crowd} of {counted(len(self.per_class), 'class')}, "
        head += counted(self.images, "image")
        reasons = self.reasons(evaluated)
        return f"{head}; {reasons}" if reasons else head
