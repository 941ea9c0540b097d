"""What the pre-flight check prints."""

import math

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.probing.result import ProbeResult
from experiments.probing.rows import TeacherRow
from experiments.probing.verdict import LARGEST_LENGTH_TAU, USEFUL_AUC, Decision
from lightning_modules.metrics.indicators import IndicatorUnits

WIDTH = 106
"""Columns that the table of teachers needs."""

_COLOURS = {Decision.GO: "bold green", Decision.NO_GO: "bold red", Decision.UNSURE: "bold yellow"}


def print_probe(result: ProbeResult, console: Console | None = None) -> None:
    """The verdict last, where it is seen."""
    console = console or Console(width=WIDTH)
    console.print(_teachers(result))
    console.print(_indicators(result))
    for line in facts(result):
        console.print(f"· {line}")
    decision = result.verdict.decision
    console.print(f"\nverdict on {result.configured}: [{_COLOURS[decision]}]{decision.value}[/]")
    for reason in result.verdict.reasons:
        console.print(f"  - {reason}", highlight=False)
    for line in advice(result):
        # settings are there to be copied, and a wrapped one is another one
        console.print(line, highlight=False, soft_wrap=is_settings(line))


def shown_rows(result: ProbeResult) -> list[TeacherRow]:
    """The configured teacher, and of each way of reading the plain one and the best one."""
    rows, seen = [result.rows[0]], {result.configured}
    for row in result.rows[1:]:
        way = " ".join(word for word in row.name.split() if not _is_passage_score(word))
        is_plain = row.name.endswith((" sum", "pdist", "loop")) or " ".join(row.name.split()) == way
        is_first = way not in seen
        seen.add(way)
        if (is_plain or is_first) and "with template" not in row.name:
            rows.append(row)
    return rows


def _is_passage_score(word: str) -> bool:
    return word in ("sum", "mean", "first") or word.startswith("top")


def _teachers(result: ProbeResult) -> Table:
    table = Table(
        title="teachers: do passages with an answer get more?",
        caption="=len: AUC at equal passage length; fav: same order whatever is asked (0 to 1)\n"
        f"len: Kendall's tau with passage length, refused beyond {LARGEST_LENGTH_TAU:g} with either sign\n"
        "mass: on passages with an answer, at temperature tau",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("teacher", no_wrap=True)
    for name in ("AUC [95%]", "=len", "len", "fav", "MRR", "mass", "entropy", "tau", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    for number, row in enumerate(shown_rows(result)):
        table.add_row(*_cells(row), style="bold" if number == 0 else None)
    table.add_section()
    for row in result.references:
        table.add_row(*_cells(row))
    return table


def _cells(row: TeacherRow) -> list[str]:
    return [
        row.name,
        row.auc.text,
        _number(row.at_equal_length.mean),
        _number(row.length_tau.mean, "+"),
        _number(row.favourites.mean),
        _number(row.mrr.mean),
        _number(row.mass_on_answers.mean),
        _number(row.entropy.mean),
        f"{row.temperature:.2g}" if row.temperature is not None else "",
        str(row.auc.n),
    ]


def _number(value: float, sign: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{sign}.2f}"


def _indicators(result: ProbeResult) -> Table:
    percentiles = sorted({name.rpartition("_p")[2] for name in result.indicators})
    table = Table(title="indicators of the configured teacher, 95% intervals", box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for percentile in percentiles:
        table.add_column(f"p{percentile}", justify="right", no_wrap=True)
    table.add_column("n", justify="right")
    for number, target in ((1, "answer"), (2, "nouns")):
        for part in IndicatorUnits._fields:
            found = [result.indicators[f"indicator{number}/{part}_p{p}"] for p in percentiles]
            cells = [f"{e.mean:.3f} [{e.low:.3f}, {e.high:.3f}]" if e.n else "-" for e in found]
            table.add_row(f"Indicator {number} ({target}), {part}", *cells, str(found[0].n))
    return table


def facts(result: ProbeResult) -> list[str]:
    """What else was found, a line each."""
    shares = result.shares
    lines = [
        f"Hit Rate@K {result.hit_rate:.2f}; {result.share_with_both:.0%} of all questions retrieved for have "
        "passages both with and without an answer, so that there is something to learn",
        f"the answer's attention: {shares['passages'].mean:.0%} on passages, "
        f"{shares['first_token'].mean:.0%} on the prompt's first token, {shares['rest'].mean:.0%} elsewhere",
    ]
    own = result.rows[0].favourites
    if own.n:
        lines.append(
            f"{result.configured} asked an unrelated question: Kendall tau {own.text} with the order for the "
            "passages' own; the nearer to 1, the more it teaches to prefer the same ones whatever is asked"
        )
    for order, masses in result.mass_by_position.items():
        shown = ", ".join(f"{mass:.0%}" for mass in masses)
        lines.append(
            f"concatenated, passages in {order} order, attention by place (even: "
            f"{1 / len(masses):.0%}): {shown}"
        )
    for pair, tau in result.agreement.items():
        lines.append(f"agreement of {pair}: Kendall tau {tau.text}")
    if result.heads is not None:
        heads = result.heads
        lines.append(
            f"attention heads {heads.heads}, chosen by their AUC: held out {heads.auc:.2f}, all heads "
            f"{heads.auc_of_all:.2f}, gain {heads.gain:+.2f} [{heads.low:+.2f}, {heads.high:+.2f}] on "
            f"{heads.num_questions} questions; at equal length {heads.at_equal_length.mean:.2f} and "
            f"{heads.at_equal_length_of_all.mean:.2f}: choosing "
            f"{'pays' if heads.pays else 'does not surely pay'}"
        )
    if result.stopped_early:
        lines.append(f"stopped after {result.num_questions} questions: the verdict was clear")
    return lines


def advice(result: ProbeResult) -> list[str]:
    """What to use, and indented the overrides to paste."""
    best = result.recommended
    if best is None:
        return [
            f"recommended: none; no way of teaching has an AUC surely above {USEFUL_AUC}, "
            f"also at equal length, without following passage length (tau beyond {LARGEST_LENGTH_TAU:g})"
        ]
    assert best.overrides is not None
    lines = [
        f"recommended: {best.name} (AUC {best.auc.text}, at equal length {best.at_equal_length.text}, fav "
        f"{best.favourites.text}; chosen from {len(result.rows)} ways: confirm it on other questions, "
        "--split train)",
        "  " + " ".join(best.overrides),
    ]
    if result.heads is not None and result.heads.pays:
        lines += [
            "for the configured context, attention of the chosen heads alone (objective.name=adist):",
            f"  'reader.attention_heads=\"{result.heads.heads}\"'",
        ]
    return lines


def is_settings(line: str) -> bool:
    """Whether a line of the advice is one to paste."""
    return line.startswith("  ")
