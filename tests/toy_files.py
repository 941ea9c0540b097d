"""The toy corpus as files, and the settings that make `quickstart` a run of seconds on them."""

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path

from experiments import run
from experiments.runs import RunFolder
from tests.tiny_models import save_tiny_models, toy_passages, toy_questions

PAPERS_TEACHER: dict[str, object] = {
    "objective.name": "adist",
    "objective.scale": "raw",
    "objective.attention_temperature": 0.05,
    "objective.in_batch": "false",
    "objective.signals.answer": 1,
    "reader.attention_heads": "null",
    "retrieval.candidates": "index",
    "retrieval.are_fixed": "false",
    "training.num_passages": 5,
    "training.answer_choice": "sampled",
    "data.batch_size": 2,
    "reader.dtype": "float32",
    "trainer.precision": "auto",
    "index.validation_passages": "null",
    "index.refresh_before_validation": "true",
}
"""What `quickstart` sets otherwise: its own teacher has tests of its own."""


def write_questions(path: Path, indices: range | list[int], with_titles: bool = False) -> Path:
    questions = toy_questions()
    records = [
        {"id": questions[i].id, "question": questions[i].text, "answers": questions[i].answers}
        | ({"title": questions[i].title} if with_titles else {})
        for i in indices
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def write_passages(path: Path) -> Path:
    rows = [asdict(passage) for passage in toy_passages()]
    lines = ["\t".join((row["id"], row["text"], row["title"])) for row in rows]
    path.write_text("\n".join(["id\ttext\ttitle", *lines]) + "\n")
    return path


def save_noun_tagger(folder: Path) -> Path:
    """A spaCy model to which a noun is what begins with a capital letter."""
    _noun_tagger().to_disk(folder)
    return folder


@cache
def _noun_tagger():
    import spacy

    tagger = spacy.blank("en")
    tagger.add_pipe("attribute_ruler").add([[{"IS_TITLE": True}]], {"POS": "PROPN"})
    return tagger


def toy_settings(folder: Path, **changes: object) -> dict[str, object]:
    """Writes models, questions and passages into `folder`; the settings of a run on them.

    Args:
        folder: an empty one.
        changes: further settings, with `__` for the dots of a key.
    """
    reader, retriever = save_tiny_models(folder / "models")
    settings: dict[str, object] = {
        **PAPERS_TEACHER,
        "runs": folder / "runs",
        "data.train": write_questions(folder / "train.jsonl", range(12)),
        "data.validation": write_questions(folder / "validation.jsonl", range(0, 12, 2)),
        "data.test": write_questions(folder / "test.jsonl", range(1, 12, 2)),
        "data.passages": write_passages(folder / "passages.tsv"),
        "data.max_train": "null",
        "data.max_validation": "null",
        "data.max_test": "null",
        "data.max_passages": "null",
        "data.noun_model": save_noun_tagger(folder / "nouns"),
        "reader.name": reader,
        "reader.max_new_tokens": 4,
        "reader.num_examples": 0,  # the questions name no passages
        "retriever.name": retriever,
        "retriever.num_layers": "null",
        "training.retriever_lr": 1e-3,
        "training.reader_lr": 1e-3,
        "training.retriever_warmup_steps": 1,
        "trainer.max_steps": 4,
        "trainer.validate_every_steps": 2,
        "trainer.checkpoint_every_steps": 1,
        "trainer.accelerator": "cpu",
        "trainer.progress_bar": "false",
        "index.refresh": '"0-100:3"',
        "index.batch_size": 8,
    }
    return {**settings, **{key.replace("__", "."): value for key, value in changes.items()}}


def as_overrides(settings: dict[str, object]) -> list[str]:
    return [f"{key}={value}" for key, value in settings.items()]


def toy_run(folder: Path) -> RunFolder:
    """A short run on `toy_settings` that has come to its end."""
    settings = toy_settings(folder, trainer__max_steps=2, evaluation__num_read=2, evaluation__num_read_test=2)
    assert run.main(["--exp", "quickstart", *as_overrides(settings)]) == 0
    (path,) = (folder / "runs" / "quickstart").iterdir()
    return RunFolder(path)
