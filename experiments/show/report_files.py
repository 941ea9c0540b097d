"""The files of a run, as a report reads them: anybody may have written them, and not all can be believed."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.decisions import COMPARISON
from datamodules.errors import DataError
from datamodules.sealed_files import DamagedFileError, read_json
from datamodules.text_files import parse_json

QuestionMetrics = dict[str, dict[str, float]]
"""Metric -> question id -> value, where it is defined."""

_LARGEST = 1e6
"""No metric of a run comes near it."""
_SHARE = re.compile(r"(.*/)?(em|f1|hr_at_\d+)")
"""Names of metrics that are from 0 to 1, whatever stage or retriever they are of."""
_ROUNDED = 1e-4
"""A mean in single precision may be off by so much."""


class ImplausibleError(DataError):
    """A file that can be read, and cannot be what a run has written."""


def read_summary(path: Path) -> dict[str, Any]:
    """What `summary.json` holds.

    Raises:
        DataError: it cannot be read.
        ImplausibleError: something in it is not of its kind.
    """
    try:
        summary = read_json(path)
    except (FileNotFoundError, DamagedFileError) as error:
        raise DataError(f"{error}; leave {path.parent} out, or run it again") from error
    if not isinstance(summary.get("status"), str):
        raise DataError(f"{path} says no status; leave {path.parent} out, or run it again")
    _check_summary(path, summary)
    return summary


def read_analysed(path: Path) -> QuestionMetrics:
    """What an analysis wrote of each question; none where there is no file.

    Raises:
        DataError, ImplausibleError: as `read_tests`.
    """
    found: QuestionMetrics = {}
    seen: set[str] = set()
    for where, record in _records(path, "id", "metrics"):
        _add(found, seen, record["id"], _mapping(record["metrics"], f"{where}: metrics"), where)
    return found


def read_validations(path: Path, max_steps: int) -> dict[int, dict[str, float]]:
    """Step -> metrics; none where there is no file.

    Raises:
        DataError: a line cannot be read.
        ImplausibleError: steps that the run has not, or not in order, or metrics that are no numbers.
    """
    found: dict[int, dict[str, float]] = {}
    for where, record in _records(path, "step", "metrics"):
        step = record["step"]
        is_next = type(step) is int and max(found, default=-1) < step <= max_steps
        if not is_next:
            raise ImplausibleError(
                f"{where}: step {_short(step)}, of a run of {max_steps} steps, after {list(found)[-1:]}"
            )
        metrics = _mapping(record["metrics"], f"{where}: metrics")
        found[step] = {name: _number(name, value, where) for name, value in metrics.items()}
    return found


def read_tests(after: Path, before: Path) -> tuple[QuestionMetrics, QuestionMetrics, dict[str, str]]:
    """Those of the final test, and of the start's, which a run that trains nothing has not.

    The third is what was asked: question id -> text, of each line of the final test that has it.

    Raises:
        DataError: a line cannot be read.
        ImplausibleError: a line holds what no run writes, a question stands there twice, or the two files
            are not of the same questions.
    """
    of_after, asked = _read_questions(after)
    of_before, asked_before = _read_questions(before)
    if asked_before and asked.keys() != asked_before.keys():
        only = sorted(asked.keys() ^ asked_before.keys())
        raise ImplausibleError(
            f"{after.name} holds other questions than {before.name}: {_short(only[0])} is in one alone"
            + (f", as are {len(only) - 1} more" if len(only) > 1 else "")
        )
    return of_after, of_before, {question_id: text for question_id, text in asked.items() if text is not None}


def check_rows(path: Path, metrics: QuestionMetrics, summary: Mapping[str, Any], when: str) -> None:
    """Compares the means over a file's rows with those of the summary.

    Args:
        path: of the rows, for the message.
        metrics: of the rows.
        summary: of the run.
        when: `before` or `after`.

    Raises:
        ImplausibleError: rows are missing, or are not those of this run.
    """
    for name in ("em", "f1", "hr_at_5"):
        kept = summary.get(name)
        wanted = kept.get(when) if isinstance(kept, Mapping) else None
        values = metrics.get(name, {})
        if wanted is None or not values:
            continue
        mean = sum(values.values()) / len(values)
        if abs(mean - wanted) > _ROUNDED:
            raise ImplausibleError(
                f"{path.name}: the mean of {name} over its {len(values)} questions is {mean:.4f}, and "
                f"summary.json says {wanted:.4f}: rows are missing, or of another run"
            )


# ---- lines ----


def _read_questions(path: Path) -> tuple[QuestionMetrics, dict[str, str | None]]:
    """What `callbacks.save_predictions` wrote, of all processes, and the text of each question by its id."""
    found: QuestionMetrics = {}
    seen: set[str] = set()
    asked: dict[str, str | None] = {}
    for file in (path, *sorted(path.parent.glob(f"{path.name}.rank*"))):
        for where, record in _records(file, "id"):
            values: dict[str, Any] = {name: record[name] for name in ("em", "f1") if name in record}
            values |= _mapping(record.get("metrics", {}), f"{where}: metrics")
            if "first_hit_rank" in record:
                passages, rank = record.get("passages"), record["first_hit_rank"]
                if not isinstance(passages, list) or not _is_rank(rank, len(passages)):
                    raise ImplausibleError(f"{where}: first_hit_rank and passages do not fit each other")
                if len(passages) >= 5:
                    values["hr_at_5"] = float(rank is not None and rank < 5)
            _add(found, seen, record["id"], values, where)
            text = record.get("question")
            if text is not None and not isinstance(text, str):
                raise ImplausibleError(f"{where}: the question {_short(text)} is no text")
            asked[record["id"]] = text
    return found, asked


# ---- what can be believed ----


def _check_summary(path: Path, summary: Mapping[str, Any]) -> None:
    where = path.name
    if not isinstance(summary.get("stopped", ""), str):
        raise ImplausibleError(f"{where}: stopped is no text")
    sources = _mapping(summary.get("started_from", {}), f"{where}: started_from")
    if not all(isinstance(source, str) for source in sources.values()):
        raise ImplausibleError(f"{where}: started_from does not name folders")
    decisions = summary.get("decisions", [])
    if not isinstance(decisions, list):
        raise ImplausibleError(f"{where}: decisions are no list")
    for decision in decisions:
        _check_decision(decision, where)
    pairs = {name: summary[name] for name in summary if _SHARE.fullmatch(name)}
    pairs |= _mapping(summary.get("bm25", {}), f"{where}: bm25")
    for name, pair in pairs.items():
        for value in _mapping(pair, f"{where}: {name}").values():
            if value is not None:
                _number(name, value, where)


def _check_decision(decision: Any, where: str) -> None:
    made = _mapping(decision, f"{where}: a decision")
    if not {"step", "action", "metric", "baseline"} <= made.keys():
        raise ImplausibleError(f"{where}: a decision without step, action, metric or baseline")
    compared = made.get("rule", COMPARISON) == COMPARISON
    of_rule = ("change", "low", "high") if compared else ("value", "bound")
    if not {*of_rule} <= made.keys():
        raise ImplausibleError(f"{where}: a decision without {' or '.join(of_rule)}")
    for name in ("step", "baseline", *of_rule):
        if made[name] is not None:
            _number(f"a decision's {name}", made[name], where, largest=2**31)


def _add(
    metrics: QuestionMetrics, seen: set[str], question_id: Any, values: Mapping[str, Any], where: str
) -> None:
    if not isinstance(question_id, str):
        raise ImplausibleError(f"{where}: the id {_short(question_id)} is no text")
    if question_id in seen:
        raise ImplausibleError(f"{where}: question {_short(question_id)} for the second time")
    seen.add(question_id)
    for name, value in values.items():
        if value is not None:
            metrics.setdefault(name, {})[question_id] = _number(name, value, where)


def _number(name: str, value: Any, where: str, largest: float = _LARGEST) -> float:
    """A finite number of a size that the metric can have."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ImplausibleError(f"{where}: {_short(name)} is {_short(value)}, which is no number")
    low, high = (0.0, 1.0) if _SHARE.fullmatch(name) else (-largest, largest)
    # whole numbers of any length are compared as they are
    if not low <= value <= high or math.isnan(value):
        raise ImplausibleError(
            f"{where}: {_short(name)} is {_short(value)}, which is not from {low:g} to {high:g}"
        )
    return float(value)


def _is_rank(rank: Any, num_passages: int) -> bool:
    return rank is None or (type(rank) is int and 0 <= rank < num_passages)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ImplausibleError(f"{where}: a JSON {type(value).__name__} where names with values belong")
    return value


def _short(value: Any) -> str:
    """As JSON, cut off where it is long."""
    if isinstance(value, int) and abs(value) > 10**30:  # Python writes no number of thousands of digits
        return "a number of many digits"
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _records(path: Path, *keys: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where it stands, and the object, of each line of a JSONL file; none where there is no file."""
    if not path.is_file():
        return
    try:
        lines: Sequence[str] = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; leave {path.parent} out") from error
    for number, line in enumerate(lines, start=1):
        record = parse_json(line, f"{path}, line {number}", f"leave {path.parent} out, or run it again")
        missing = [key for key in keys if not isinstance(record, dict) or key not in record]
        if missing:
            raise DataError(f"{path}, line {number} has no {missing[0]!r}")
        yield f"{path.name}, line {number}", record
