"""Drawings that look like other people's images, and what detectors find on them, side by side."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pkdzoo.data.labels import label_names
from recipes.experiments import generated_boards, show_generated
from recipes.experiments.generated_boards import COPPER, GROUND, defects, draw_board

MISSING = ("open", "mousebite", "pin-hole")  # copper


@pytest.mark.parametrize("seed", [0, 1])
def test_a_board_has_its_defects_where_they_are_said_to_be(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each defect changes pixels around its center, all to its color; the rest of the board is as without defects."""
    image, said = draw_board(seed=seed), defects(seed=seed)
    assert image.size == (640, 640) and image.mode == "RGB" and draw_board(seed=seed).tobytes() == image.tobytes()
    assert Counter(name for name, _ in said) == dict.fromkeys(label_names("deeppcb"), 2)
    monkeypatch.setattr(generated_boards, "draw_defect", lambda *args: None)
    board, clean = (np.asarray(each.convert("L")) for each in (image, draw_board(seed=seed)))
    changed = board != clean
    for name, (x, y) in said:
        rows, columns = (slice(round(center) - 16, round(center) + 17) for center in (y, x))
        inside = changed[rows, columns]
        assert inside.sum() > 10, (name, x, y)
        assert set(board[rows, columns][inside]) == {GROUND if name in MISSING else COPPER}, (name, x, y)
        changed[rows, columns] = False
    assert not changed.any()


@pytest.mark.parametrize("drawing", show_generated.DRAWINGS)
def test_detectors_are_shown_side_by_side(drawing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, name = tmp_path / "two.png", "gfl_r10w16_crosskd_cspnext_tiny.bccd"
    show_generated.main([drawing, name, name, "--titles", "one", "two", "--output", str(path)])
    with Image.open(path) as shown:
        width, height = show_generated.DRAWINGS[drawing]().size
        assert shown.size == (2 * width, height + 24)
    first, second = capsys.readouterr().out.rstrip().removeprefix(f"{path}: ").removesuffix(" detections").split(", ")
    assert first == second and (drawing == "boards" or int(first) > 10)
    show_generated.main([drawing, "--output", str(path)])
    assert capsys.readouterr().out == f"{path}\n"
    with Image.open(path) as alone:
        drawn = np.asarray(show_generated.DRAWINGS[drawing](), dtype=int)
        assert np.abs(np.asarray(alone.convert("RGB"), dtype=int) - drawn).max() < 40, "a box would be of another color"
    with pytest.raises(SystemExit):
        show_generated.main([drawing, name, "--titles", "one", "two", "--output", str(path)])
    assert "1 detectors: write one for each" in capsys.readouterr().err
