"""The page of the demo, in Gradio."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import Any

from pkdzoo.app.detect import COLUMNS, Named, detect, show
from pkdzoo.utils.text import install_line

START = 0.3  # threshold of the slider
HEIGHT = 320  # pixels of the image that is dropped


def build(detectors: Sequence[Named], title: str = "pkdzoo") -> Any:
    """The page as ``gradio.Blocks``; ``.launch()`` serves it.

    Args:
        detectors: one column each.
        title: of the page.

    Raises:
        ImportError: without gradio.
        ValueError: without a detector.
    """
    if not detectors:
        raise ValueError("no detector to show: write names, or the folder of a run of pkdzoo distill")
    gradio = load_gradio()
    with gradio.Blocks(title=title, analytics_enabled=False) as page:
        gradio.Markdown(f"# {title}")
        found = gradio.State([])
        with gradio.Row():
            image = gradio.Image(
                label="image", type="numpy", sources=["upload", "clipboard"], elem_id="image", height=HEIGHT
            )
            threshold = gradio.Slider(0.05, 0.95, value=START, step=0.01, label="threshold", elem_id="threshold")
        with gradio.Row():
            private = without_sharing(gradio)
            drawings = [gradio.Image(label=named.title, interactive=False, **private) for named in detectors]
        table = gradio.Dataframe(headers=list(COLUMNS), label="boxes in pixels", interactive=False, elem_id="boxes")

        def look(picture: Any, score: float) -> list[Any]:
            detections = [] if picture is None else detect(detectors, picture)
            return [detections, *refresh(detections, score)]

        def refresh(detections: Any, score: float) -> list[Any]:
            if not detections:
                return [*(gradio.update(value=None) for _ in detectors), []]
            images, captions, rows = show(detections, score)
            drawn = [gradio.update(value=pixels, label=text) for pixels, text in zip(images, captions)]
            return [*drawn, rows]

        image.change(look, [image, threshold], [found, *drawings, table])
        threshold.change(refresh, [found, threshold], [*drawings, table])
    return page


def without_sharing(gradio: Any) -> dict[str, Any]:
    """Arguments of ``gradio.Image`` that leave out the button which sends an image to the Hub."""
    if "buttons" in inspect.signature(gradio.Image.__init__).parameters:  # from gradio 6 on
        return {"buttons": ["download", "fullscreen"]}
    return {"show_share_button": False}


def load_gradio() -> Any:
    """Import Gradio.

    Raises:
        ImportError: with the line that installs it.
    """
    try:
        import gradio
    except ImportError:
        raise ImportError(f"the demo needs gradio: {how_to_install(sys.version_info[:2])}") from None
    return gradio


def how_to_install(python: tuple[int, int]) -> str:
    """How to install gradio for a version of Python: it asks for Pillow below 13, pkdzoo for 13 where there is one."""
    if python < (3, 11):
        return install_line("app")
    return (
        "`pip install gradio` after pkdzoo, in an environment of its own. gradio asks for Pillow below 13, so pip "
        "replaces Pillow 13 and warns; show only images that you trust to it (SECURITY.md)"
    )
