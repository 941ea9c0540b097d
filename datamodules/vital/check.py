"""Checks all of Vital QA that a program can: `python -m datamodules.vital.check [--folder DIR]`.

Prints the faults, each with its file and line, and a table of the set's figures.  Exit status: 0 without a
fault, 1 with one, 2 where a file or the embedded corpus is missing.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.table import Table

from datamodules.errors import DataError
from datamodules.vital.entries import Article, Entry, Fault, fault_of, read_articles, read_entries
from datamodules.vital.question_rules import question_kind, question_messages
from datamodules.vital.set_rules import Limits, is_title_answer, kind_counts, set_faults, topic_shares

_WIDTH = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks a folder and prints the outcome; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m datamodules.vital.check", description="Check the files of Vital QA."
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(__file__).parent,
        help="folder of the files (default: the shipped)",
    )
    folder = parser.parse_args(arguments).folder
    try:
        splits, tiny, faults = read_folder(folder, Limits())
        articles = read_articles()
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    faults += find_faults(splits, tiny, articles, Limits())
    for fault in faults:
        print(fault)
    console = Console(width=_WIDTH)
    console.print(figures_table(splits, articles, Limits()))
    console.print(f"{len(faults)} faults" if faults else "no fault", highlight=False)
    return 1 if faults else 0


def read_folder(folder: Path, limits: Limits) -> tuple[dict[str, list[Entry]], list[Entry], list[Fault]]:
    """The splits, tiny.jsonl, and the faults of malformed lines.

    Raises:
        DataError: a file is missing or is not UTF-8.
    """
    splits, faults = {}, []
    for name in (*limits.sizes, "tiny"):
        splits[name], malformed = read_entries(folder / f"{name}.jsonl")
        faults += malformed
    return splits, splits.pop("tiny"), faults


def find_faults(
    splits: Mapping[str, Sequence[Entry]],
    tiny: Sequence[Entry],
    articles: Mapping[str, Article],
    limits: Limits,
) -> list[Fault]:
    """Everything that is wrong with well-formed lines, question by question and as a set."""
    single = [
        fault_of(entry, message)
        for split in splits.values()
        for entry in split
        for message in question_messages(entry, articles.get(entry.title))
    ]
    return single + set_faults(splits, tiny, articles, limits)


def figures_table(
    splits: Mapping[str, Sequence[Entry]], articles: Mapping[str, Article], limits: Limits
) -> Table:
    """The figures of each split and of all together, beside what they are held to."""
    columns = [*splits.values(), [entry for split in splits.values() for entry in split]]
    table = Table("figure", title="Vital QA", width=_WIDTH)
    for heading in (*splits, "all", "limit"):
        table.add_column(heading, justify="right")

    def add(figure: str, value: Callable[[Sequence[Entry]], str], limit: str = "") -> None:
        table.add_row(figure, *(value(entries) if entries else "-" for entries in columns), limit)

    def add_share(figure: str, holds: Callable[[Entry], bool], limit: str) -> None:
        add(figure, lambda entries: f"{sum(map(holds, entries)) / len(entries):.1%}", limit)

    add("questions", lambda entries: str(len(entries)), str(sum(limits.sizes.values())))
    add(
        "gold passages",
        lambda entries: str(len({entry.title for entry in entries})),
        f">= {limits.gold_passages}",
    )
    add("words a question", lambda entries: f"{mean(len(entry.question.split()) for entry in entries):.1f}")
    add(
        "words in first answer",
        lambda entries: f"{mean(len(entry.answers[0].split()) for entry in entries):.1f}",
    )
    add("answers a question", lambda entries: f"{mean(len(entry.answers) for entry in entries):.1f}")
    add_share("the title is an answer", is_title_answer, f"<= {limits.title_share:.0%}")
    table.add_section()
    for kind, _ in kind_counts(columns[-1]).most_common():
        add_share(f"kind: {kind}", _asks(kind), f"<= {limits.kind_share:.0%}")
    table.add_section()
    for topic, share in topic_shares(articles).items():
        add_share(topic, _is_about(topic), f"{share:.1%} ± {limits.topic_tolerance:.1%}")
    return table


def _asks(kind: str) -> Callable[[Entry], bool]:
    return lambda entry: question_kind(entry.question) == kind


def _is_about(topic: str) -> Callable[[Entry], bool]:
    return lambda entry: entry.topic == topic


if __name__ == "__main__":
    sys.exit(main())
