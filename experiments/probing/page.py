"""The pre-flight check as a page of its own."""

import re
from html import escape
from pathlib import Path

import numpy as np

from datamodules.text_files import write_whole
from experiments.config import ExperimentConfig
from experiments.probing.head_map import draw_head_map
from experiments.probing.result import ProbeResult
from experiments.probing.rows import TeacherRow
from experiments.probing.table import advice, facts, is_settings
from lightning_modules.attention_heads import AttentionHeads

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 70rem; margin: 2rem auto;
  padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .2rem .5rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
tr.configured { font-weight: bold; background: #f3f6fb }
tr.reference { color: #666 }
.wide { overflow-x: auto }
.verdict { padding: .8rem 1rem; border-left: .5rem solid }
.go { border-color: #0072b2; background: #eaf4fb } .no-go { border-color: #d55e00; background: #fdf0e8 }
.unsure { border-color: #999; background: #f4f4f4 }
code { background: #f4f4f4; padding: .1rem .3rem; white-space: pre-wrap }
svg text { font: 12px system-ui, sans-serif }
"""


def write_page(result: ProbeResult, config: ExperimentConfig, path: Path) -> None:
    """Writes one HTML file that needs no other, and beside it the map of the attention heads."""
    verdict = result.verdict
    parts = [
        f"<h1>Pre-flight check: {escape(config.name)}</h1>",
        f"<p>{escape(config.description)}. Teacher: <b>{escape(result.configured)}</b>.</p>",
        f'<div class="verdict {verdict.decision.value}"><b>{verdict.decision.value}</b>',
        f"{_list(verdict.reasons)}</div>",
        "<h2>Recommended</h2>",
        "".join(f"<p>{_advice(line)}</p>" for line in advice(result)),
        "<h2>Does the teacher prefer passages with an answer?</h2>",
        _intervals(result),
        _teachers(result),
        "<h2>Indicators of the configured teacher</h2>",
        _indicators(result),
        "<h2>What else was found</h2>",
        _list(facts(result)),
        _heads(result, path.with_name("heads")),
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>Pre-flight check: {escape(config.name)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )
    write_whole(path, page)


def _heads(result: ProbeResult, path: Path) -> str:
    """The map of all heads, drawn into the page."""
    if result.heads is None:
        return ""
    auc = np.array(result.heads.head_auc)
    chosen = AttentionHeads.parse(result.heads.heads).mask(*auc.shape)
    _, svg = draw_head_map(auc, chosen.numpy(), path)
    # what the picture was made with and when: links that the page does not need
    picture = re.sub("<metadata>.*?</metadata>", "", svg.read_text(), flags=re.DOTALL)
    return (
        "<h2>Attention heads, one by one</h2><p>Teacher AUC of every head by itself, on the questions that "
        "the outlined ones were chosen on: it flatters them. What choosing gains on others is said above."
        f"</p>{picture[picture.index('<svg') :]}"
    )


def _advice(line: str) -> str:
    shown = escape(line.strip())
    return f"<code>{shown}</code>" if is_settings(line) else shown[0].upper() + shown[1:]


def _list(lines: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _teachers(result: ProbeResult) -> str:
    heads = (
        "teacher",
        "AUC",
        "AUC at equal length",
        "tau with passage length",
        "favourites",
        "MRR",
        "mass on answers",
        "entropy",
        "temperature",
        "questions",
    )
    rows = [_row(row, "configured" if number == 0 else "") for number, row in enumerate(result.rows)]
    rows += [_row(row, "reference") for row in result.references]
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _row(row: TeacherRow, kind: str) -> str:
    temperature = "" if row.temperature is None else f"{row.temperature:.3g}"
    cells = (
        escape(row.name),
        row.auc.text,
        row.at_equal_length.text,
        row.length_tau.text,
        row.favourites.text,
        row.mrr.text,
        row.mass_on_answers.text,
        row.entropy.text,
        temperature,
        str(row.auc.n),
    )
    return f'<tr class="{kind}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _indicators(result: ProbeResult) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{value.mean:.3f}</td><td>[{value.low:.3f}, {value.high:.3f}]</td>"
        f"<td>{value.n}</td></tr>"
        for name, value in sorted(result.indicators.items())
        if value.n
    )
    return (
        f"<table><tr><th>reading</th><th>mean</th><th>95% interval</th><th>questions</th></tr>{rows}</table>"
    )


def _intervals(result: ProbeResult) -> str:
    """AUC of each teacher with its interval, as a picture."""
    rows = [*result.rows, *result.references]
    left, width, step = 350, 460, 20
    height = step * len(rows) + 40

    def x(value: float) -> float:
        return left + width * value

    lines = [
        f'<line x1="{x(v):.0f}" x2="{x(v):.0f}" y1="0" y2="{height - 30}" '
        f'stroke="{"#666" if v == 0.5 else "#ddd"}"/>'
        f'<text x="{x(v):.0f}" y="{height - 12}" text-anchor="middle">{v:g}</text>'
        for v in (0, 0.25, 0.5, 0.75, 1)
    ]
    for number, row in enumerate(rows):
        if row.auc.n < 2:
            continue
        y, colour = step * number + 12, "#0072b2" if number == 0 else "#777"
        lines.append(
            f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{escape(row.name)}</text>'
            f'<line x1="{x(row.auc.low):.1f}" x2="{x(row.auc.high):.1f}" y1="{y}" y2="{y}" stroke="{colour}" '
            f'stroke-width="3"/><circle cx="{x(row.auc.mean):.1f}" cy="{y}" r="4" fill="{colour}"/>'
        )
    label = "AUC with 95% interval of every way of teaching; 0.5 is chance"
    return (
        f'<svg role="img" aria-label="{label}" width="{left + width + 20}" height="{height}" '
        f'viewBox="0 0 {left + width + 20} {height}">{"".join(lines)}</svg><p>{label}</p>'
    )
