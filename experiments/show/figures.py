"""The paper's figures, for one scale and data set each."""

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.show.document import Picture
from experiments.show.report_rows import Entry
from experiments.show.report_runs import SETTINGS
from experiments.show.report_tables import dataset_label, metric_label, setting_label
from lightning_modules.metrics.measures import hit_rate_measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HIT_RATE = hit_rate_measure(5)
_CURVES = ("offshelf", "step2")
_HISTOGRAMS = ((4, 1, "attention"), (5, 2, "attention"), (6, 1, "spearman"), (7, 2, "spearman"))
_LINES = ("-", "--", ":", "-.")
_NUM_BINS = 30
_TITLE_WIDTH = 90
"""Characters of a line over two panels."""
_HEADROOM = 1.3
"""A histogram's height relative to its highest bar's: above it stands the percentile."""

_INK = "#1c1c1c"

# Okabe and Ito's palette: told apart by readers with any kind of colour vision
_COLORS = {
    "checkpoint": "#7f7f7f",
    "offshelf": "#D55E00",
    "step1": "#56B4E9",
    "step2": "#0072B2",
    "atlas_large": "#CC79A7",
    "perplexity": "#E69F00",
}
_OTHER = "#009E73"

_LOOKS: Any = {
    "font.size": 9.5,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _INK,
    "legend.frameon": False,
    "lines.markersize": 5,
    "svg.fonttype": "path",
}


def draw_figures(entries: Sequence[Entry]) -> list[Picture]:
    """Figures 1 and 3 to 7, those for which there is anything to draw.

    Args:
        entries: of one scale and data set.
    """
    with _looks():
        histograms = [_draw_histograms(entries, *which) for which in _HISTOGRAMS]
        drawn = [_draw_curves(entries), _draw_means(entries), *histograms]
    return [picture for picture in drawn if picture is not None]


def hit_rate_curve(entry: Entry) -> dict[int, list[float]]:
    """Step -> Hit Rate@5 of each seed, at the steps that all seeds have validated."""
    curves = [
        {
            step: metrics[HIT_RATE.in_validation]
            for step, metrics in run.validations.items()
            if HIT_RATE.in_validation in metrics
        }
        for run in entry.runs
    ]
    steps = set.intersection(*map(set, curves)) if curves else set()
    return {step: [curve[step] for curve in curves] for step in sorted(steps)}


def _draw_curves(entries: Sequence[Entry]) -> Picture | None:
    """Figure 1; of the paper's settings off-the-shelf and Step 2, and any setting that the paper has not."""
    candidates = [entry for entry in entries if entry.setting in _CURVES or entry.setting not in SETTINGS]
    curves = [(entry, hit_rate_curve(entry)) for entry in candidates]
    drawn = [(entry, curve) for entry, curve in curves if curve]
    if not drawn:
        return None
    labels = [setting_label(entry, "\n") for entry, _ in drawn]
    figure = _new_figure(7.0, 3.4 + 0.18 * sum(len(label.splitlines()) for label in labels))
    axes = figure.subplots()
    seen: dict[str, int] = {}
    for (entry, curve), label in zip(drawn, labels, strict=True):
        steps, values = list(curve), np.array(list(curve.values()))
        color, line = _color_of(entry.setting), _LINES[seen.get(entry.setting, 0) % len(_LINES)]
        seen[entry.setting] = seen.get(entry.setting, 0) + 1
        marker = "o" if len(steps) < 40 else ""
        axes.plot(steps, values.mean(axis=1), line, color=color, marker=marker, label=label)
        if values.shape[1] > 1:
            axes.fill_between(steps, values.min(axis=1), values.max(axis=1), color=color, alpha=0.2, lw=0)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("training step")
    axes.set_ylabel(f"{HIT_RATE.label}, validation questions")
    low, high = axes.get_ylim()  # of equal values it reaches below 0
    axes.set_ylim(max(0.0, low), min(1.02, high))
    # a phone shows the left part of a figure
    figure.legend(loc="outside lower left")
    caption = "Lines are means over seeds"
    if any(len(entry.runs) > 1 for entry, _ in drawn):
        caption += ", bands go from the lowest to the highest seed"
    caption += "; step 0 is the starting checkpoint." + _left_out(candidates, [entry for entry, _ in drawn])
    return _picture(figure, entries, 1, f"{HIT_RATE.label} during training", caption)


def _draw_means(entries: Sequence[Entry]) -> Picture | None:
    """Figure 3; both indicators at p90."""
    names = [f"indicator{number}/{part}_p90" for number in (1, 2) for part in ("attention", "spearman")]
    drawn = [entry for entry in entries if any(name in entry.estimates for name in names)]
    if not drawn:
        return None
    figure = _new_figure(7.0, 1.3 + 0.55 * len(drawn))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, part in zip(panels, ("attention", "spearman"), strict=True):
        for number, marker, offset in ((1, "o", -0.14), (2, "s", 0.14)):
            name = f"indicator{number}/{part}_p90"
            points = [(row, entry) for row, entry in enumerate(drawn) if name in entry.estimates]
            found = [entry.estimates[name] for _, entry in points]
            axes.errorbar(
                [value.mean for value in found],
                [row + offset for row, _ in points],
                # rounding may put the mean of equal values a hair outside of its interval
                xerr=[
                    [max(0.0, value.mean - value.low) for value in found],
                    [max(0.0, value.high - value.mean) for value in found],
                ],
                fmt=marker,
                capsize=3,
                color="#0072B2" if number == 1 else "#D55E00",
                label=f"Indicator {number}",
            )
        axes.set_xlabel("mean attention p90" if part == "attention" else "mean Spearman p90")
        axes.locator_params(axis="x", nbins=5)
        axes.grid(axis="x", color="#dddddd", lw=0.6)
        axes.set_axisbelow(True)
    panels[0].set_yticks(range(len(drawn)), [setting_label(entry, "\n") for entry in drawn])
    panels[0].set_ylim(len(drawn) - 0.5, -0.5)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2)
    caption = "Points are means over test questions, bars their 95% bootstrap intervals (as in the tables)."
    caption += _left_out(entries, drawn)
    return _picture(figure, entries, 3, "both indicators by setting", caption)


def _draw_histograms(entries: Sequence[Entry], number: int, indicator: int, part: str) -> Picture | None:
    """Figures 4 to 7; a row a setting, p90 beside p95."""
    names = [f"indicator{indicator}/{part}_p{p}" for p in (90, 95)]
    drawn = [entry for entry in entries if any(name in entry.estimates for name in names)]
    if not drawn:
        return None
    titles = [fill(setting_label(entry), _TITLE_WIDTH, break_on_hyphens=False) for entry in drawn]
    num_lines = sum(title.count("\n") + 1 for title in titles)
    figure = _new_figure(7.0, 0.9 + 1.1 * len(drawn) + 0.15 * num_lines)
    panels = figure.subplots(len(drawn), 2, sharex=True, sharey="row", squeeze=False)
    pooled = [[_instances(entry, name) for name in names] for entry in drawn]
    everything = np.concatenate([values for row in pooled for values in row])
    low, high = float(everything.min()), float(everything.max())
    edges = np.linspace(low, high if high > low else low + 1e-3, _NUM_BINS + 1).tolist()
    for row, (entry, title) in enumerate(zip(drawn, titles, strict=True)):
        for column, name in enumerate(names):
            _draw_histogram(panels[row, column], pooled[row][column], edges, _color_of(entry.setting))
            panels[row, column].text(
                0.99, 0.97, name[-3:], transform=panels[row, column].transAxes, ha="right", va="top"
            )
        # both panels of the row have its axis
        panels[row, 0].set_ylim(0.0, panels[row, 0].get_ylim()[1] * _HEADROOM)
        # over both panels of the row: the layout is to leave room for its height, not for its width
        panels[row, 0].set_title(" " + "\n" * title.count("\n"), loc="left")
        panels[row, 0].annotate(
            title, (0.0, 1.0), (0, 4), "axes fraction", "offset points", fontsize=9, va="bottom"
        ).set_in_layout(False)
    for axes in panels[-1]:
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel("Spearman of a question" if part == "spearman" else "attention of a question")
    figure.supylabel("share of questions", fontsize="medium")
    caption = "Instances of all seeds together; the dashed line is their mean." + _left_out(entries, drawn)
    title = metric_label(names[0]).removesuffix(" p90")
    return _picture(figure, entries, number, f"{title} over the test questions", caption)


def _draw_histogram(axes: "Axes", values: np.ndarray, edges: list[float], color: str) -> None:
    if not len(values):
        axes.text(0.5, 0.5, "undefined for all", transform=axes.transAxes, ha="center", va="center")
        return
    axes.hist(values, bins=edges, weights=np.full(len(values), 1 / len(values)), color=color, alpha=0.85)
    axes.axvline(values.mean(), ymax=1 / _HEADROOM, color=_INK, ls="--", lw=1.2)


def _instances(entry: Entry, name: str) -> np.ndarray:
    return np.array([value for run in entry.runs for value in run.after.get(name, {}).values()])


def _left_out(candidates: Sequence[Entry], drawn: Sequence[Entry]) -> str:
    absent = [setting_label(entry) for entry in candidates if entry not in drawn]
    return f" Left out, as no run has measured them: {', '.join(absent)}." if absent else ""


def _picture(figure: Any, entries: Sequence[Entry], number: int, title: str, caption: str) -> Picture:
    first = entries[0]
    name = "".join(c if c.isalnum() else "_" for c in f"{first.dataset} {first.scale}")
    title = f"Figure {number}, {dataset_label(first.dataset)}: {title}"
    return _save_figure(figure, f"figure{number}_{name}", title, caption)


# ---- how all figures look, and how they become files ----


def _color_of(setting: str) -> str:
    """The same for a setting in every figure."""
    return _COLORS.get(setting, _OTHER)


def _looks() -> AbstractContextManager[None]:
    """Within it figures are to be made: matplotlib reads its settings when a part of a figure is."""
    from matplotlib import rc_context

    return rc_context(_LOOKS)


def _new_figure(width: float, height: float) -> "Figure":
    """An empty figure, sizes in inches; nothing of pyplot's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save_figure(figure: "Figure", name: str, title: str, caption: str) -> Picture:
    """Draws a figure twice; the same figure gives the same bytes."""
    from matplotlib import rc_context

    svg, png = io.StringIO(), io.BytesIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(svg, format="svg", metadata={"Date": None})
        figure.savefig(png, format="png", dpi=160)
    return Picture(name, title, caption, svg.getvalue(), png.getvalue())
