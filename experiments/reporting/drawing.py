"""How all figures look, and how they become files."""

import io
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from experiments.reporting.document import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#1c1c1c"

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
    "axes.edgecolor": INK,
    "legend.frameon": False,
    "lines.markersize": 5,
    "svg.fonttype": "path",
}


def color_of(setting: str) -> str:
    """The same for a setting in every figure."""
    return _COLORS.get(setting, _OTHER)


def looks() -> AbstractContextManager[None]:
    """Within it figures are to be made: matplotlib reads its settings when a part of a figure is."""
    from matplotlib import rc_context

    return rc_context(_LOOKS)


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, sizes in inches; nothing of pyplot's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: "Figure", name: str, title: str, caption: str) -> Picture:
    """Draws a figure twice; the same figure gives the same bytes."""
    from matplotlib import rc_context

    svg, png = io.StringIO(), io.BytesIO()
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(svg, format="svg", metadata={"Date": None})
        figure.savefig(png, format="png", dpi=160)
    return Picture(name, title, caption, svg.getvalue(), png.getvalue())
