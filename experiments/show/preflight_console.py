"""What a pre-flight check prints."""

import math
import shlex

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.show.console import console_table, new_console
from lightning_modules.metrics.measures import measure_labels
from lightning_modules.preflight import Advice, PreflightResult, TeacherRow
from lightning_modules.preflight.verdict import FEWEST_QUESTIONS, LARGEST_LENGTH_TAU, USEFUL_AUC

_COLOURS = {Advice.GO: "bold green", Advice.NO_GO: "bold red", Advice.UNSURE: "bold yellow"}
_COLUMNS = (
    "teacher",
    "AUC [95%]",
    "equal\nlen.",
    "len.\ntau",
    "same\norder",
    "MRR",
    "mass",
    "ent-\nropy",
    "tempe-\nrature",
    "n",
)


def print_preflight(result: PreflightResult, split: str, console: Console | None = None) -> None:
    """The verdict last, where it is seen.

    Args:
        result: what was found.
        split: whose questions were read.
        console: to print on; None = the usual one.
    """
    console = console or new_console()
    console.print(_teachers(result))
    console.print(_measures(result))
    for line in facts(result):
        console.print(f"· {line}", markup=False)
    verdict = result.verdict
    colour = _COLOURS[verdict.advice]
    console.print(f"\nverdict on {escape(result.configured)}: [{colour}]{verdict.advice.value}[/]")
    for reason in verdict.reasons:
        console.print(f"  - {reason}", markup=False)
    if verdict.needs_more:
        console.print(how_to_read_more(split), highlight=False)
    for line in advice(result, split):
        # settings are there to be copied, and a wrapped one is another one
        console.print(line, markup=False, soft_wrap=is_settings(line))


def shown_rows(result: PreflightResult) -> list[TeacherRow]:
    """The paper's teacher, the configured one with its scales, the recommended one, and of each objective,
    context and order the plain variant and the best one; with each set of heads the best one.

    Other variants that are unusual in more than one way are for the page. The best is one of those that were
    read for the most questions: a few are soon all right.
    """
    always = {result.papers, result.configured, *([result.recommended.name] if result.recommended else [])}
    kept = {row.name for row in result.rows if row.name in always or row.scale is not None}
    best: dict[str, TeacherRow] = {}
    for row in result.rows:  # by their AUC
        if row.name in kept or len(row.details) > 1:
            continue
        if row.is_plain:
            kept.add(row.name)
        if row.way not in best or row.auc.n > best[row.way].auc.n:
            best[row.way] = row
    kept |= {row.name for row in best.values()}
    return [row for row in result.rows if row.name in kept]


def _teachers(result: PreflightResult) -> Table:
    shown = shown_rows(result)
    rows = [_cells(row, result.configured) for row in shown]
    references = [_cells(row) for row in result.references]
    return console_table(
        "teachers: do passages with an answer get more?",
        _COLUMNS,
        [*rows, [], *references],
        caption="*: as configured; first row: the paper's own teacher\n"
        "equal len.: AUC between passages of equal length\n"
        f"len. tau: Kendall's tau with passage length, refused beyond {LARGEST_LENGTH_TAU:g} with either "
        "sign\n"
        "same order: Kendall's tau with the order for an unrelated question (1 = whatever is asked)\n"
        "mass: on passages with an answer, at this temperature",
        bold=[number for number, row in enumerate(shown) if row.name == result.configured],
        is_dense=True,
    )


def _cells(row: TeacherRow, configured: str | None = None) -> list[str]:
    return [
        f"{row.name} *" if row.name == configured else row.name,
        row.auc.text,
        _number(row.at_equal_length.mean),
        _number(row.length_tau.mean, "+"),
        _number(row.fixed_preference.mean),
        _number(row.mrr.mean),
        _number(row.mass_on_answers.mean),
        _number(row.entropy.mean),
        f"{row.temperature:.2g}" if row.temperature is not None else "",
        str(row.auc.n),
    ]


def _number(value: float, sign: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{sign}.2f}"


def _measures(result: PreflightResult) -> Table:
    labels = measure_labels(result.percentiles)
    rows = [
        [labels[name], f"{e.mean:.3f} [{e.low:.3f}, {e.high:.3f}]" if e.n else "-", str(e.n)]
        for name, e in result.measures.items()
    ]
    return console_table("the configured teacher, 95% intervals", ["", "mean", "n"], rows)


def facts(result: PreflightResult) -> list[str]:
    """What else was found, a line each."""
    shares = result.shares
    lines = [
        f"Hit Rate@K {result.hit_rate:.2f}; {result.share_with_both:.0%} of all questions retrieved for have "
        "passages both with and without an answer, so that there is something to learn",
        f"the answer's attention: {shares['passages'].mean:.0%} on passages, "
        f"{shares['first_token'].mean:.0%} on the prompt's first token, {shares['rest'].mean:.0%} elsewhere",
    ]
    own = result.configured_row.fixed_preference
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
    lines += _agreements(result)
    if result.heads is not None:
        heads = result.heads
        lines.append(
            f"attention heads {heads.heads} of the {heads.rows}'s rows, chosen by their AUC: held out "
            f"{heads.auc:.2f}, all heads {heads.auc_of_all:.2f}, gain {heads.gain:+.2f} "
            f"[{heads.low:+.2f}, {heads.high:+.2f}] on {heads.num_questions} questions; at equal length "
            f"{heads.at_equal_length.mean:.2f} and {heads.at_equal_length_of_all.mean:.2f}: choosing "
            f"{'pays' if heads.pays else 'does not surely pay'}"
        )
    if result.reranker is not None:
        name, gain = result.reranker
        if not gain.n:
            is_better = (
                "cannot be compared, for want of questions with passages both with and without an answer"
            )
        elif gain.low > 0:
            is_better = "is surely the better teacher"
        elif gain.high < 0:
            is_better = "is surely the worse teacher"
        else:
            is_better = "is not surely better or worse"
        lines.append(f"the reranker {name} {is_better}: its AUC less {result.configured}'s is {gain.text}")
    if result.stopped_early:
        lines.append(f"stopped after {result.num_questions} questions: the verdict was clear")
    return [*lines, *result.notes]


def _agreements(result: PreflightResult) -> list[str]:
    """Whose order of the passages the configured teacher's is like; `probe.json` holds it of all pairs."""
    others = []
    for pair, tau in result.agreement.items():
        first, second = pair.split(" / ")
        if result.configured in (first, second) and tau.n:
            others.append(f"{second if first == result.configured else first} {tau.text}")
    if not others:
        return []
    return [f"Kendall tau of the order of {result.configured} with that of {'; '.join(others)}"]


def other_split(split: str) -> str:
    """One with other questions than those of the split, and many of them."""
    return "validation" if split == "train" else "train"


def how_to_read_more(split: str) -> str:
    """What to do where a check of the split had too few questions, or too few passages for each."""
    return f"more questions: --instances, --split {other_split(split)}; more passages: training.num_passages"


def advice(result: PreflightResult, split: str) -> list[str]:
    """What to use, and indented the overrides to paste.

    Args:
        result: what was found.
        split: whose questions were read.
    """
    best = result.recommended
    if best is None:
        return [
            f"recommended: none; no teacher has an AUC surely above {USEFUL_AUC} over at least "
            f"{FEWEST_QUESTIONS} questions, also at equal length, without following passage length (tau "
            f"beyond {LARGEST_LENGTH_TAU:g})"
        ]
    assert best.overrides is not None
    lines = [
        f"recommended: {best.name} (AUC {best.auc.text}, at equal length {best.at_equal_length.text}, same "
        f"order for an unrelated question {best.fixed_preference.text}; chosen from {len(result.rows)} "
        f"variants: confirm it on other questions, --split {other_split(split)})",
        "  " + shlex.join(best.overrides),
    ]
    if result.heads is not None and result.heads.pays:
        lines += [
            f"for the configured context, the {result.heads.rows}'s rows by the chosen heads alone:",
            "  " + shlex.join(result.heads.overrides),
        ]
    return lines


def is_settings(line: str) -> bool:
    """Whether a line of the advice is one to paste."""
    return line.startswith("  ")
