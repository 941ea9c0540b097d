"""What an analysis prints: the metrics with their intervals, and the most attended tokens."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from datamodules.token_file import TokenFile
from datamodules.token_units import TokenUnit
from experiments.show.console import console_table, new_console
from lightning_modules.metrics.measures import measure_labels
from lightning_modules.token_analysis import Analysis, Summary

_SHADES = ((0.6, "bold white on dark_red"), (0.3, "black on dark_orange"), (0.15, "black on khaki1"))
"""From which share of a passage's highest attention on, a token is printed how."""
_NUM_TOP = 6
_INDENT = "      "


def print_analysis(
    analysis: Analysis,
    file: TokenFile,
    num_shown: int,
    saved: Sequence[Path] | None,
    not_kept: str | None = None,
    console: Console | None = None,
) -> None:
    """Prints the metrics, some questions with their passages, and where everything lies.

    Args:
        analysis: of the file.
        file: the token file.
        num_shown: questions whose most attended tokens are shown.
        saved: files that the analysis was written to; None = it was not.
        not_kept: why the token file is not kept either; None = it is.
        console: where to; None = standard output, 100 columns wide.
    """
    console = console or new_console()
    console.print(_table(analysis, file))
    units = file.units(num_shown)
    num_passages = file.info["num_passages"]
    for start in range(0, len(units), num_passages):
        _print_question(units[start : start + num_passages], str(analysis.settings.match), console)
    if not_kept is not None:
        console.print(not_kept, soft_wrap=True, markup=False)
        return
    console.print(f"{'tokens:':11}{file.path}", soft_wrap=True)
    if changed := file.info.get("changed"):
        console.print(f"measured with other settings than the run's: {', '.join(changed)}", soft_wrap=True)
    if saved is None:
        console.print("other settings than the run's: shown, not saved")
    for path in saved or ():
        console.print(f"{path.stem.split('-')[0] + ':':11}{path}", soft_wrap=True)


def _table(analysis: Analysis, file: TokenFile) -> Table:
    info, settings = file.info, analysis.settings
    name = f"{info['experiment']}, {len(analysis.question_ids)} {info['split']} questions"
    labels = measure_labels(settings.percentiles)
    rows = [
        (
            labels[metric],
            _number(summary.mean),
            _number(summary.std),
            f"{_number(summary.low)} .. {_number(summary.high)}",
            str(summary.n),
            _undefined(metric, summary, analysis.counts),
        )
        for metric, summary in analysis.metrics.items()
    ]
    return console_table(
        f"{name}, weights at the {info['weights']} (seed {info['seed']})",
        ("", "mean", "std", "95% interval", "questions", "undefined"),
        rows,
        caption=f"attention normalised over: {settings.normalization}; embeddings: {settings.embeddings}; "
        f"answers matched by: {settings.match}",
    )


def _undefined(metric: str, summary: Summary, counts: Mapping[str, int]) -> str:
    """Passages that have no correlation, of an indicator; questions without a value, of all else."""
    of_passages = counts.get(metric.replace("spearman", "undefined")) if "spearman" in metric else None
    number, what = (summary.undefined, "question") if of_passages is None else (of_passages, "passage")
    return f"{number} {what}{'' if number == 1 else 's'}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _print_question(units: Sequence[TokenUnit], match: str, console: Console) -> None:
    question = units[0]
    console.print()
    console.print(f"[bold]{escape(question.question)}[/]  answers: {escape(' / '.join(question.answers))}")
    for unit in units:
        holds = "answer" if getattr(unit, f"holds_answer_{match}") else "-"
        console.print(
            f"  {unit.rank + 1}  p_ATTN {unit.p_attn:.3f}  p_RETR {unit.p_retr:.3f}  {holds:6}  {unit.title}",
            markup=False,
            no_wrap=True,
            overflow="ellipsis",
        )
        if console.is_terminal and not console.no_color:
            console.print(shaded(unit, console.width - len(_INDENT)), no_wrap=True)
        else:
            console.print(top_tokens(unit), markup=False, no_wrap=True, overflow="ellipsis")


def shaded(unit: TokenUnit, width: int) -> Text:
    """The part of a passage that gets the most attention, each token the darker the more it gets.

    Answers are underlined.
    """
    shown = Text(_INDENT)
    shares = _shares(unit)
    if not shares:
        return shown
    first, last = _most_attended_part(unit.token_texts, shares, width)
    answer = _answer_tokens(unit)
    highest = max(shares)
    for piece, share, is_answer in zip(
        unit.token_texts[first:last], shares[first:last], answer[first:last], strict=True
    ):
        styles = [style for least, style in _SHADES if share >= least * highest][:1]
        shown.append(_in_one_line(piece), " ".join([*styles, *(["underline"] if is_answer else [])]))
    return shown


def top_tokens(unit: TokenUnit) -> str:
    """The most attended tokens of a passage with their share of its attention; `*` = token of an answer."""
    shares, answer = _shares(unit), _answer_tokens(unit)
    best = sorted(range(len(shares)), key=lambda token: -shares[token])[:_NUM_TOP]
    named = [
        f"{_in_one_line(unit.token_texts[token]).strip() or repr(unit.token_texts[token])}"
        f"{'*' if answer[token] else ''} {shares[token]:.1%}"
        for token in best
    ]
    return _INDENT + ", ".join(named)


def _shares(unit: TokenUnit) -> list[float]:
    """Attention to each token, 1 in sum; none where the reader saw nothing."""
    total = float(sum(unit.token_scores))
    return [float(score) / total for score in unit.token_scores] if total > 0 else []


def _answer_tokens(unit: TokenUnit) -> list[bool]:
    """Which tokens stand, at least in part, where one of the answers is written."""
    text = "".join(unit.token_texts)
    is_answer = [False] * len(text)
    lowered = text.lower()
    # a few letters change their length with their case
    for answer in unit.answers if len(lowered) == len(text) else ():
        start = lowered.find(answer.lower()) if answer else -1
        while start >= 0:
            end = start + len(answer)
            is_answer[start:end] = [True] * (end - start)
            start = lowered.find(answer.lower(), end)
    tokens, start = [], 0
    for piece in unit.token_texts:
        tokens.append(any(is_answer[start : start + len(piece)]))
        start += len(piece)
    return tokens


def _most_attended_part(pieces: Sequence[str], shares: Sequence[float], width: int) -> tuple[int, int]:
    """First token and the one after the last of the stretch with the most attention that fits a line."""
    best, best_sum = (0, 0), -1.0
    last = length = 0
    total = 0.0
    for first in range(len(pieces)):
        while last < len(pieces) and length + len(pieces[last]) <= width:
            length, total, last = length + len(pieces[last]), total + shares[last], last + 1
        if total > best_sum:
            best, best_sum = (first, last), total
        if last == first:  # a token that is longer than a line
            last += 1
            continue
        length, total = length - len(pieces[first]), total - shares[first]
    return best


def _in_one_line(piece: str) -> str:
    return piece.replace("\n", " ").replace("\r", " ").replace("\t", " ")
