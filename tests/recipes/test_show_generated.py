"""Drawings that look like other people's images, and what detectors find on them, side by side."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from pkdzoo.data.labels import label_names
from recipes.experiments import show_generated
from recipes.experiments.generated_boards import COPPER, GROUND, defects, draw_board

MISSING = ("open", "mousebite", "pin-hole")  # copper


def test_a_board_has_its_defects_where_they_are_said_to_be() -> None:
    image, said = draw_board(), defects()
    assert image.size == (640, 640) and image.mode == "RGB" and set(image.convert("L").tobytes()) == {COPPER, GROUND}
    assert Counter(name for name, _ in said) == dict.fromkeys(label_names("deeppcb"), 2)
    for name, (x, y) in said:
        around = image.convert("L").crop((int(x) - 3, int(y) - 3, int(x) + 4, int(y) + 4)).tobytes()
        assert (GROUND if name in MISSING else COPPER) in around, (name, x, y)
    assert draw_board(seed=1).tobytes() != image.tobytes() == draw_board().tobytes()


@pytest.mark.parametrize("drawing", show_generated.DRAWINGS)
def test_detectors_are_shown_side_by_side(drawing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, name = tmp_path / "two.png", "rtmdet_w12_pkd_tiny.bccd"
    show_generated.main([drawing, name, name, "--titles", "one", "two", "--output", str(path)])
    with Image.open(path) as shown:
        width, height = show_generated.DRAWINGS[drawing]().size
        assert shown.size == (2 * width, height + 24)
    first, second = capsys.readouterr().out.rstrip().removeprefix(f"{path}: ").removesuffix(" detections").split(", ")
    assert first == second and (drawing == "boards" or int(first) > 10)
    with pytest.raises(SystemExit):
        show_generated.main([drawing, name, "--titles", "one", "two", "--output", str(path)])
    assert "1 detectors: write one for each" in capsys.readouterr().err
