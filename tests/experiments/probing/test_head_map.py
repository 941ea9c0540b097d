"""The picture of the heads: both files, the same bytes each time, and what is drawn in it."""

import re

import numpy as np
import pytest

from experiments.probing.head_map import draw_head_map


def head_auc(layers: int, heads: int) -> np.ndarray:
    return 0.5 + 0.1 * np.random.default_rng(0).standard_normal((layers, heads))


@pytest.mark.parametrize(("layers", "heads"), [(30, 9), (1, 1)])
def test_draws_png_and_svg(tmp_path, layers, heads):
    auc = head_auc(layers, heads)
    png, svg = draw_head_map(auc, auc > 0.6, tmp_path / "heads.v1")
    assert (png.name, svg.name) == ("heads.v1.png", "heads.v1.svg")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "<svg" in svg.read_text()
    assert sorted(tmp_path.iterdir()) == [png, svg], "nothing half-written is left"


def test_the_same_heads_give_the_same_files(tmp_path):
    auc = head_auc(5, 3)
    pictures = [draw_head_map(auc, auc > 0.6, tmp_path / name) for name in ("a", "b")]
    for first, second in zip(*pictures, strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_every_chosen_head_is_outlined(tmp_path):
    auc = head_auc(5, 3)
    outlines = []
    for num_chosen in (0, 1, 4):
        chosen = np.zeros((5, 3), dtype=bool)
        chosen.flat[:num_chosen] = True
        _, svg = draw_head_map(auc, chosen, tmp_path / "heads")
        outlines.append(len(re.findall(r"fill: none; stroke: #000000; stroke-width: 2;", svg.read_text())))
    assert outlines == [0, 1, 4]


def test_heads_without_auc_are_drawn_as_nothing(tmp_path):
    auc = head_auc(4, 3)
    auc[1] = np.nan
    auc[2, 0] = np.nan
    png, _ = draw_head_map(auc, np.zeros((4, 3), dtype=bool), tmp_path / "some")
    assert png.stat().st_size > 0
    draw_head_map(np.full((4, 3), np.nan), np.zeros((4, 3), dtype=bool), tmp_path / "none")
