"""A picture of how well every attention head of a reader tells passages with an answer from the others."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PALETTE = "PuOr_r"  # diverging, and told apart with any colour vision: purple below 0.5, orange above
_LEAST_SPREAD = 0.05  # so that noise about 0.5 looks like noise


def draw_head_map(auc: np.ndarray, chosen: np.ndarray, path: Path) -> tuple[Path, Path]:
    """Draws the AUC of every head, with the chosen heads outlined and the mean of each layer beside it.

    Args:
        auc: [layers, heads] of `lightning_modules.metrics.head_search.head_auc`; NaN is left grey.
        chosen: [layers, heads], True = outlined (`AttentionHeads.mask`).
        path: where to, without an ending; its folder must be there.

    Returns:
        The two files: `path` with the endings .png and .svg.
    """
    # both take a second to import, and matplotlib writes a cache of fonts when it first is
    import matplotlib
    from matplotlib.figure import Figure

    assert auc.shape == chosen.shape, "one flag a head"
    num_layers, num_heads = auc.shape
    size = (3.2 + 0.3 * max(num_heads, 6), 1.8 + 0.22 * max(num_layers, 8))
    files = path.with_name(f"{path.name}.png"), path.with_name(f"{path.name}.svg")
    with matplotlib.rc_context({"svg.hashsalt": "head map", "font.size": 9}):  # same picture, same bytes
        figure = Figure(figsize=size, layout="constrained")
        heads, layers = figure.subplots(1, 2, sharey=True, width_ratios=[max(num_heads, 6), 4])
        _draw_heads(figure, heads, auc, chosen)
        _draw_layer_means(layers, auc)
        _save(figure, files)
    return files


def _draw_heads(figure: "Figure", axes: "Axes", auc: np.ndarray, chosen: np.ndarray) -> None:
    from matplotlib.patches import Rectangle

    spread = float(np.nanmax(np.abs(auc - 0.5), initial=_LEAST_SPREAD))
    image = axes.imshow(auc, cmap=_PALETTE, vmin=0.5 - spread, vmax=0.5 + spread, aspect="auto")
    axes.set_facecolor("0.8")
    for layer, head in np.argwhere(chosen):
        axes.add_patch(Rectangle((head - 0.5, layer - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=2))
    axes.set(xlabel="head", ylabel="layer", title="chosen: outlined" if chosen.any() else "")
    for axis, count in ((axes.xaxis, auc.shape[1]), (axes.yaxis, auc.shape[0])):
        axis.set_ticks(range(0, count, 1 if count <= 12 else 2 if count <= 40 else 5))
    figure.colorbar(image, ax=axes, location="bottom", label="AUC (0.5 = chance)", pad=0.02)


def _draw_layer_means(axes: "Axes", auc: np.ndarray) -> None:
    """Bars from 0.5, on the axis of the layers beside them; a layer without any AUC has none."""
    known = ~np.isnan(auc)
    beyond_chance = np.where(known, auc - 0.5, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    axes.barh(range(len(auc)), beyond_chance, left=0.5, height=0.8, color="0.35")
    axes.axvline(0.5, color="black", linewidth=0.8)
    axes.set(xlabel="AUC", title="mean of layer")
    axes.tick_params(left=False)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _save(figure: "Figure", files: tuple[Path, ...]) -> None:
    """Writes beside the file and renames; without dates, which would make equal pictures differ."""
    for file in files:
        partial = file.with_name(f"{file.name}.partial")
        kind = file.suffix.removeprefix(".")
        metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
        figure.savefig(partial, format=kind, dpi=200, metadata=metadata)
        partial.replace(file)
