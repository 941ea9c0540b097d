"""The study's figures, as SVG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_modules.metrics.estimates import Estimate

_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
    "#767676",
    "#1c1c1c",
    "#b2df8a",
    "#8b4513",
)
_STYLES = ("solid", "dashed", "dotted", "dashdot")
_LOOKS: Any = {
    "svg.hashsalt": "study",
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def draw_scatter(
    points: Sequence[tuple[str, Estimate, Estimate]], labels: tuple[str, str], path: Path
) -> None:
    """A point for each teacher, with both intervals; a colour for each family.

    Args:
        points: family, abscissa, ordinate.
        labels: of the axes.
        path: of the SVG.
    """
    families = list(dict.fromkeys(family for family, _, _ in points))
    figure, axes = _figure(7.6, 4.2)
    for number, family in enumerate(families):
        xs, ys = zip(*((x, y) for of, x, y in points if of == family), strict=True)
        axes.errorbar(
            [x.mean for x in xs],
            [y.mean for y in ys],
            xerr=_reach(xs),
            yerr=_reach(ys),
            linestyle="",
            marker="o",
            markersize=4.5,
            elinewidth=0.6,
            color=_COLOURS[number % len(_COLOURS)],
            label=family,
        )
    axes.axhline(0, color="#999999", linewidth=0.6)
    axes.set(xlabel=labels[0], ylabel=labels[1])
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8.5)
    _save(figure, path)


def draw_bars(rows: Sequence[tuple[str, Estimate]], label: str, path: Path) -> None:
    """A line with its interval for each name, the first on top."""
    figure, axes = _figure(7.6, 0.8 + 0.27 * len(rows))
    places = list(range(len(rows)))[::-1]
    found = [of for _, of in rows]
    axes.errorbar(
        [of.mean for of in found],
        places,
        xerr=_reach(found),
        linestyle="",
        marker="o",
        markersize=4.5,
        elinewidth=0.9,
        color=_COLOURS[0],
    )
    axes.axvline(0, color="#999999", linewidth=0.6)
    axes.set_yticks(places, [name for name, _ in rows])
    axes.set(xlabel=label, xlim=(-1.02, 1.02))
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    _save(figure, path)


def draw_curves(
    lines: Sequence[tuple[tuple[str, ...], Sequence[Mapping[int, float]]]], label: str, path: Path
) -> None:
    """A line for each name: the mean over seeds, and the least and the greatest as a band.

    Args:
        lines: name, whose first part a colour is of and whose second, if it has one, a kind of line; and of
            each seed its values by step; of a step that some have not come to, the others'.
        label: of the ordinate.
        path: of the SVG.
    """
    figure, axes = _figure(7.6, 3.6)
    firsts, seconds = (list(dict.fromkeys(name[part:][:1] for name, _ in lines)) for part in (0, 1))
    for name, by_seed in lines:
        colour = _COLOURS[firsts.index(name[:1]) % len(_COLOURS)]
        style = _STYLES[seconds.index(name[1:2]) % len(_STYLES)]
        steps = sorted({step for curve in by_seed for step in curve})
        by_step = [[curve[step] for curve in by_seed if step in curve] for step in steps]
        lowest, highest = [min(of) for of in by_step], [max(of) for of in by_step]
        axes.fill_between(steps, lowest, highest, color=colour, alpha=0.15, linewidth=0)
        axes.plot(
            steps,
            [sum(of) / len(of) for of in by_step],
            color=colour,
            linestyle=style,
            marker="o",
            markersize=3.5,
            label=" ".join(name),
        )
    axes.set(xlabel="training step", ylabel=label)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8.5, handlelength=3)
    _save(figure, path)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_LOOKS):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.add_subplot()


def _save(figure: Any, path: Path) -> None:
    import matplotlib

    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(_LOOKS):
        figure.savefig(path, format="svg", metadata={"Date": None})


def _reach(found: Sequence[Estimate]) -> list[list[float]]:
    """Below and above the mean."""
    return [
        [max(0.0, of.mean - of.low) if of.low == of.low else 0.0 for of in found],
        [max(0.0, of.high - of.mean) if of.high == of.high else 0.0 for of in found],
    ]
