"""What a report says: conclusions in words, tables, figures, and the list of runs."""

import itertools
from collections.abc import Iterable, Iterator, Sequence

from callbacks.decisions import how_few
from experiments.show.document import Block, Bullets, Heading, Paragraph
from experiments.show.figures import draw_figures
from experiments.show.published import make_published_table
from experiments.show.report_rows import Entry, PooledEstimate, Runs
from experiments.show.report_tables import (
    MISSING,
    dataset_label,
    make_run_table,
    make_tables,
    metric_label,
    not_run,
    scale_label,
    setting_label,
)
from lightning_modules.metrics.measures import VALIDATION, measure_labels

_HIT_RATE = "hr_at_5"
# mean attention falls where passages grow longer, whatever the reader attends to
_INDICATORS = tuple(f"indicator{number}/{part}_p90" for number in (1, 2) for part in ("lift", "spearman"))


def count_runs(number: int) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} run" if number == 1 else f"{number} runs"


def compose_report(runs: Runs) -> list[Block]:
    """Conclusions in words, then for each scale tables and figures, then the list of runs."""
    num_finished = sum(run.is_finished for run, _ in runs.statuses)
    num_counted = sum(len(entry.runs) for entry in runs.entries)
    blocks: list[Block] = [
        Heading(1, "Attention distillation: runs compared"),
        Paragraph(
            f"{count_runs(len(runs.statuses))}, {num_finished} finished, "
            f"{num_counted} of them in the tables: see the list at the end."
        ),
        Heading(2, "Conclusions"),
    ]
    by_scale = [list(group) for _, group in itertools.groupby(runs.entries, key=lambda entry: entry.scale)]
    for entries in by_scale:
        if len(by_scale) > 1:
            blocks.append(Heading(3, scale_label(entries[0].scale)))
        blocks.append(Bullets(tuple(describe_changes(entries))))
    for entries in by_scale:
        blocks += _compose_scale(entries)
    return [*blocks, Heading(2, "All runs"), make_run_table(runs.statuses)]


def _compose_scale(entries: list[Entry]) -> Iterator[Block]:
    yield Heading(2, scale_label(entries[0].scale))
    yield from make_tables(entries)
    published = make_published_table(entries)
    if published is not None:
        yield published
    if absent := not_run(entries):
        yield Paragraph(absent)
    shown = [entry for entry in entries if entry.status != MISSING]
    for _, of_dataset in itertools.groupby(shown, key=lambda entry: entry.dataset):
        yield from draw_figures(list(of_dataset))


# ---- conclusions ----


def describe_changes(entries: Sequence[Entry]) -> list[str]:
    """A sentence or two for each row that was trained, and measured before and after.

    A change is significant where its 95% bootstrap interval excludes 0.
    """
    described = [_describe(entry) for entry in entries if _HIT_RATE in entry.changes]
    return described or ["No run was trained and measured before and after, so there is no change to report."]


def _describe(entry: Entry) -> str:
    hit_rate = entry.changes[_HIT_RATE]
    name = f"{dataset_label(entry.dataset)}, {setting_label(entry)}"
    verb = {
        1: "improves significantly",
        -1: "decreases significantly",
        0: "does not change significantly",
    }[hit_rate.direction]
    if not any(run.config.training.train_retriever for run in entry.runs):
        # the hit rate is then the same by construction
        said = f"{name}: the retriever was not trained."
    else:
        said = f"{name}: {metric_label(_HIT_RATE)} {verb} ({_change(hit_rate)})."
    said += _describe_kept(entry)
    said += " " + " ".join(_describe_indicators(entry, hit_rate.direction))
    said += _describe_few(entry)
    if len(entry.runs) == 1:
        said += " One seed: the intervals are over questions only."
    return said


def _describe_few(entry: Entry) -> str:
    """That a test asks few questions, or reads few of them, as often as that is so."""

    def fewest(names: Iterable[str]) -> int:
        return min((entry.changes[name].n for name in names if name in entry.changes), default=0)

    # n counts a question once a seed
    asked, read = (fewest(names) // len(entry.runs) for names in ([_HIT_RATE], _INDICATORS))
    few = [("", asked), ("Of the indicators: ", read)] if 0 < read < asked else [("", asked)]
    found = ((of, how_few(count, "the test").removeprefix("; ")) for of, count in few)
    return "".join(f" {of}{said}." for of, said in found if said)


def _describe_kept(entry: Entry) -> str:
    """That what was tested is the start, where no checkpoint beat it, and what became of the retriever."""
    kept = [run for run in entry.runs if run.kept_start]
    if not kept:
        return ""
    whose = f" (in {len(kept)} of {len(entry.runs)} runs)" if len(entry.runs) > 1 else ""
    said = f" No checkpoint beat the start{whose}, so the starting weights were kept and tested"
    ends = [(curve[min(curve)], curve[max(curve)]) for curve in (run.monitored for run in kept) if curve]
    if not ends:
        return f"{said}."
    monitor = str(kept[0].config.evaluation.monitor).removeprefix(VALIDATION)
    monitor = measure_labels().get(monitor, monitor)
    last = ", ".join(f"{end:.3f} ({end - start:+.3f})" for start, end in ends)
    return f"{said}; in the last validation the {monitor} was {last}."


def _describe_indicators(entry: Entry, direction: int) -> Iterator[str]:
    measured = {name: entry.changes[name] for name in _INDICATORS if name in entry.changes}
    if not measured:
        yield "No indicator was measured both times."
        return
    groups: dict[str, list[str]] = {}
    for name, change in measured.items():
        groups.setdefault(_relation(change.direction, direction), []).append(
            metric_label(name) + (f" ({_change(change)})" if change.direction else "")
        )
    for relation, names in groups.items():
        yield f"{relation}: {', '.join(names)}."


def _relation(indicator: int, hit_rate: int) -> str:
    """An indicator's direction, beside that of the hit rate."""
    if not indicator:
        return "No significant change"
    said = "Significantly improved" if indicator > 0 else "Significantly decreased"
    if not hit_rate:
        return said
    return f"{said} as well" if indicator == hit_rate else f"{said}, unlike {metric_label(_HIT_RATE)}"


def _change(change: PooledEstimate) -> str:
    return f"{change.mean:+.3f}, 95% interval {change.low:+.3f} to {change.high:+.3f}"
