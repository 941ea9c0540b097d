"""The pre-flight check as a page of its own, with a map of the attention heads."""

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from callbacks.html_page import page
from datamodules.durable_files import durably, write_durably
from experiments.show.preflight_console import advice, facts, how_to_read_more, is_settings
from lightning_modules.attention_heads import AttentionHeads
from lightning_modules.metrics.estimates import Estimate
from lightning_modules.metrics.measures import measure_labels
from lightning_modules.preflight import PreflightResult, TeacherRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_SHOWN = 10
_LABEL = "AUC with 95% interval of a teacher; 0.5 is chance"

_PALETTE = "PuOr_r"  # diverging, and clear with any colour vision: purple below 0.5, orange above
_LEAST_SPREAD = 0.05  # so that noise about 0.5 looks like noise

_STYLE = """
th, td { text-align: right; white-space: nowrap; padding-inline: .4rem; }
th, td:first-child { white-space: normal; }
th:first-child, td:first-child { text-align: left; }
tr.configured { font-weight: bold; background: var(--panel); }
tr.reference { color: var(--soft); }
.verdict { padding: .8rem 1rem; border-left: .5rem solid; background: var(--panel); max-width: 52rem; }
.verdict ul { margin: .3rem 0 0; }
.go { border-color: var(--accent); } .no-go { border-color: #d55e00; } .unsure { border-color: var(--soft); }
.intervals { display: block; width: 100%; max-width: 30rem; height: auto; }
.intervals text { font-size: 11px; paint-order: stroke; stroke: var(--paper); stroke-width: 3px; }
svg .name, svg .tick { fill: var(--ink); }
svg .grid { stroke: var(--line); } svg .chance { stroke: var(--soft); }
svg .teacher { stroke: var(--soft); fill: var(--soft); }
svg .configured { stroke: var(--accent); fill: var(--accent); }
figure svg { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
"""


def write_page(result: PreflightResult, name: str, description: str, split: str, path: Path) -> None:
    """Writes one HTML file that needs no other, and beside it the map of the attention heads.

    Args:
        result: what was found.
        name, description: of the experiment that was checked.
        split: whose questions were read.
        path: of the file; its folder must be there.
    """
    verdict = result.verdict
    parts = [
        f"<h1>Pre-flight check: {escape(name)}</h1>",
        f"<p>{escape(description)}. Teacher: <b>{escape(result.configured)}</b>.</p>",
        f'<div class="verdict {verdict.advice.value}"><b>{verdict.advice.value}</b>',
        f"{_list(verdict.reasons)}{how_to_read_more(split) if verdict.needs_more else ''}</div>",
        "<h2>Recommended</h2>",
        "".join(f"<p>{_advice(line)}</p>" for line in advice(result, split)),
        "<h2>Does the teacher prefer passages with an answer?</h2>",
        _teachers(result),
        "<h2>The configured teacher</h2>",
        _measures(result),
        "<h2>What else was found</h2>",
        _list(facts(result)),
        _heads(result, path.with_name("heads")),
    ]
    write_durably(path, page(f"Pre-flight check: {name}", "\n".join(parts), _STYLE))


def _heads(result: PreflightResult, path: Path) -> str:
    """The map of all heads, drawn into the page."""
    if result.heads is None:
        return ""
    auc = np.array(result.heads.head_auc)
    chosen = AttentionHeads.parse(result.heads.heads).mask(*auc.shape)
    _, svg = draw_head_map(auc, chosen.numpy(), path)
    # what the picture was made with and when: links that the page does not need
    picture = re.sub("<metadata>.*?</metadata>", "", svg.read_text(), flags=re.DOTALL)
    return (
        "<h2>Attention heads, one by one</h2><p>Teacher AUC of every head by itself, of the "
        f"{result.heads.rows}'s rows, on the questions that "
        "the outlined ones were chosen on: it flatters them. What choosing gains on others is said above."
        f"</p><figure>{picture[picture.index('<svg') :]}</figure>"
    )


def _advice(line: str) -> str:
    shown = escape(line.strip())
    return f"<code>{shown}</code>" if is_settings(line) else shown[0].upper() + shown[1:]


def _list(lines: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _teachers(result: PreflightResult) -> str:
    """The teachers that matter as a picture and as a table; the others behind a click."""
    shown, others = split_rows(result)
    parts = [
        _picture([row for row in shown if not _is_again(row, result)], result.configured),
        f"<p>{_LABEL}. The first one is the paper's own teacher, the highlighted one the configured one.</p>",
        _table(shown, result),
    ]
    if others:
        more = _picture(others, result.configured) + _table(others, result)
        parts.append(f"<details><summary>{len(others)} more teachers</summary>{more}</details>")
    return "".join(parts)


def _is_again(row: TeacherRow, result: PreflightResult) -> bool:
    """Whether a row is the configured one at another scale: its order is the same, and so is its AUC."""
    return row.scale is not None and row.name != result.papers


def _table(rows: Sequence[TeacherRow], result: PreflightResult) -> str:
    heads = (
        "teacher",
        "AUC",
        "AUC at equal length",
        "tau with passage length",
        "same order for an unrelated question",
        "MRR",
        "mass on answers",
        "entropy",
        "temperature",
        "questions",
    )
    kinds = {row.name: "reference" for row in result.references} | {result.configured: "configured"}
    shown = [_row(row, kinds.get(row.name, "")) for row in rows]
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(shown)}</table></div>'


def _row(row: TeacherRow, kind: str) -> str:
    temperature = "" if row.temperature is None else f"{row.temperature:.3g}"
    estimates = (
        row.auc,
        row.at_equal_length,
        row.length_tau,
        row.fixed_preference,
        row.mrr,
        row.mass_on_answers,
        row.entropy,
    )
    cells = (escape(row.name), *map(_estimate, estimates), temperature, str(row.auc.n))
    return f'<tr class="{kind}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _estimate(estimate: Estimate) -> str:
    """A mean, and below it its interval: all columns fit side by side."""
    mean, *interval = estimate.text.split(" ", 1)
    return mean + "".join(f" <small>{part}</small>" for part in interval)


def _measures(result: PreflightResult) -> str:
    labels = measure_labels(result.percentiles)
    rows = "".join(
        f"<tr><td>{escape(labels[name])}</td><td>{value.mean:.3f}</td>"
        f"<td>[{value.low:.3f}, {value.high:.3f}]</td><td>{value.n}</td></tr>"
        for name, value in result.measures.items()
        if value.n
    )
    return (
        '<div class="scroll"><table><tr><th>metric</th><th>mean</th><th>95% interval</th>'
        f"<th>questions</th></tr>{rows}</table></div>"
    )


def split_rows(result: PreflightResult) -> tuple[list[TeacherRow], list[TeacherRow]]:
    """The paper's teacher, the configured and the recommended one, what they are compared with and the best
    others, ten in all, with the configured one at every scale; and the rest."""
    named = {result.papers, result.configured, *([result.recommended.name] if result.recommended else [])}
    counted = [row for row in result.rows if not _is_again(row, result)]
    others = [row for row in counted if row.name not in named]
    room = max(0, _MOST_SHOWN - (len(counted) - len(others)) - len(result.references))
    by_auc = sorted(others, key=lambda row: -row.auc.mean if row.auc.n > 1 else 0.0)
    left = {row.name for row in by_auc[room:]}
    shown = [row for row in result.rows if row.name not in left]
    return [*shown, *result.references], [row for row in result.rows if row.name in left]


def _picture(rows: Sequence[TeacherRow], configured: str) -> str:
    left, width, step = 12, 330, 34
    height = step * len(rows) + 40

    def x(value: float) -> float:
        return left + width * value

    lines = [
        f'<line x1="{x(v):.0f}" x2="{x(v):.0f}" y1="0" y2="{height - 30}" '
        f'class="{"chance" if v == 0.5 else "grid"}"/>'
        f'<text class="tick" x="{x(v):.0f}" y="{height - 12}" text-anchor="middle">{v:g}</text>'
        for v in (0, 0.25, 0.5, 0.75, 1)
    ]
    for number, row in enumerate(rows):
        if row.auc.n < 2:
            continue
        y, kind = step * number + 26, "configured" if row.name == configured else "teacher"
        lines.append(
            f'<text class="name" x="{left}" y="{y - 11}">{escape(row.name)}</text>'
            f'<line x1="{x(row.auc.low):.1f}" x2="{x(row.auc.high):.1f}" y1="{y}" y2="{y}" class="{kind}" '
            f'stroke-width="3"/><circle cx="{x(row.auc.mean):.1f}" cy="{y}" r="4" class="{kind}"/>'
        )
    return (
        f'<svg class="intervals" role="img" aria-label="{_LABEL}" '
        f'viewBox="0 0 {left + width + 12} {height}">{"".join(lines)}</svg>'
    )


# ---- how well each attention head separates passages with an answer from the others ----


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
    """Without dates, which would make equal pictures differ."""
    for file in files:
        kind = file.suffix.removeprefix(".")
        metadata = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
        with durably(file) as partial:
            figure.savefig(partial, format=kind, dpi=200, metadata=metadata)
