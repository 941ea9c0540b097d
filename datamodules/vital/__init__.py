"""Vital QA: the project's own questions over the embedded Wikipedia corpus."""

from pathlib import Path

VITAL = "vital"
"""Name that stands for Vital QA, or the embedded corpus, where a file is asked for."""


def vital_questions_file(split: str) -> Path:
    """The questions of a split, `train`, `validation` or `test`."""
    return Path(__file__).parent / f"{split}.jsonl"
