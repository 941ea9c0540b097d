"""The page of a pre-flight check; the picture of its heads: the same bytes each time, and what is drawn."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from experiments.show.preflight_page import draw_head_map, split_rows, write_page
from lightning_modules.metrics.measures import indicator_measures
from tests.experiments.show.test_preflight_console import result, wide_row


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


# ---- the page ----


class Page(HTMLParser):
    """Checks that tags are closed, and gathers what is shown."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.text += data


def test_the_page_shows_every_teacher_and_escapes_names(tmp_path):
    found = result(rows=[wide_row()], references=[replace(wide_row(), name="<b>even")])
    write_page(found, "toy <i>", "a & b", "validation", tmp_path / "probe.html")
    page = (tmp_path / "probe.html").read_text()
    shown = Page(page).text
    for part in ("toy <i>", "a & b", "<b>even", wide_row().name, "0.90 [0.80, 1.00]", "-0.71"):
        assert part in shown
    labels = [measure.label for measure in indicator_measures([90]) if measure.name in found.measures]
    assert len(labels) == 6
    assert all(label in shown for label in labels)
    assert "<td>0.90 <small>[0.80, 1.00]</small></td>" in page, "the interval below its mean"
    assert "http" not in page, "self-contained"
    assert [path.name for path in tmp_path.iterdir()] == ["probe.html"], "no heads were chosen"


def test_the_picture_shows_ten_teachers_and_the_rest_behind_a_click(tmp_path):
    def named(name: str, mean: float):
        return replace(wide_row(), name=name, auc=replace(wide_row().auc, mean=mean))

    rows = [named("configured", 0.1), *[named(f"teacher {i}", i / 20) for i in range(14)]]
    found = result(rows=rows, references=[named("even", 0.5), named("length", 0.4)])
    shown, others = split_rows(found)
    best = [f"teacher {i}" for i in range(7, 14)]
    assert [row.name for row in shown] == ["configured", *best, "even", "length"]
    assert [row.name for row in others] == [f"teacher {i}" for i in range(7)]
    write_page(found, "toy", "d", "validation", tmp_path / "probe.html")
    page = (tmp_path / "probe.html").read_text()
    assert "<details><summary>7 more teachers</summary><svg" in page
    assert page.count('class="configured"') == 3, "a line, a point and a row, of the configured one"
    assert split_rows(result(rows=rows[:1]))[1] == []


def test_the_papers_the_configured_and_the_recommended_teacher_are_always_shown():
    def named(name: str, mean: float, scale: str | None = None):
        return replace(wide_row(), name=name, auc=replace(wide_row().auc, mean=mean), scale=scale)

    first = [named("paper's", 0.2), named("configured", 0.1)]
    scales = [named(f"configured {scale}", 0.1, scale) for scale in ("raw", "minmax")]
    rows = [*first, *scales, *[named(f"teacher {i}", i / 20) for i in range(14)]]
    found = result(rows=rows, configured="configured", recommended=rows[4], references=[named("even", 0.5)])
    shown, others = split_rows(found)
    best = [f"teacher {i}" for i in range(8, 14)]
    assert [row.name for row in shown] == [
        *("paper's", "configured", "configured raw", "configured minmax", "teacher 0"),
        *best,
        "even",
    ]
    assert [row.name for row in others] == [f"teacher {i}" for i in range(1, 8)]
