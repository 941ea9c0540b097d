"""What the numbers say, in words: what rose, what fell, and which indicator went with it."""

from collections.abc import Iterator, Sequence

from experiments.reporting.entries import Entry
from experiments.reporting.estimates import Estimate
from experiments.reporting.labels import dataset_label, reading_label, setting_label

# mean attention falls where passages grow longer, whatever the reader attends to
_INDICATORS = tuple(f"indicator{number}/{part}_p90" for number in (1, 2) for part in ("lift", "spearman"))


def describe_changes(entries: Sequence[Entry]) -> list[str]:
    """A sentence or two for each row that was trained and measured before and after.

    A change counts where its 95% bootstrap interval does not hold 0; nothing else is said.
    """
    described = [_describe(entry) for entry in entries if "hr_at_5" in entry.changes]
    return described or ["No run was trained and measured before and after, so there is no change to read."]


def _describe(entry: Entry) -> str:
    hit_rate = entry.changes["hr_at_5"]
    name = f"{dataset_label(entry.dataset)}, {setting_label(entry)}"
    verb = {1: "rose", -1: "fell", 0: "did not change beyond its interval"}[hit_rate.direction]
    if not any(run.config.training.train_retriever for run in entry.runs):
        # HR@5 is then the same by construction
        said = f"{name}: the retriever was not trained."
    else:
        said = f"{name}: HR@5 {verb} ({_change(hit_rate)})."
    said += " " + " ".join(_of_indicators(entry, hit_rate.direction))
    if len(entry.runs) == 1:
        said += " One seed: the intervals are over questions only."
    return said


def _of_indicators(entry: Entry, direction: int) -> Iterator[str]:
    moved = {name: entry.changes[name] for name in _INDICATORS if name in entry.changes}
    if not moved:
        yield "No indicator was read both times."
        return
    groups: dict[str, list[str]] = {}
    for name, change in moved.items():
        groups.setdefault(_relation(change.direction, direction), []).append(
            reading_label(name) + (f" ({_change(change)})" if change.direction else "")
        )
    for relation, names in groups.items():
        yield f"{relation}: {', '.join(names)}."


def _relation(indicator: int, hit_rate: int) -> str:
    if not indicator:
        return "No change beyond its interval"
    if not hit_rate:
        return "Up" if indicator > 0 else "Down"
    return "With it went" if indicator == hit_rate else "The other way went"


def _change(change: Estimate) -> str:
    return f"{change.mean:+.3f}, 95% interval {change.low:+.3f} to {change.high:+.3f}"
