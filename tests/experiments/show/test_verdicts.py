"""Of which checks a run's card quotes the verdict: those of its own teacher on its own passages."""

import dataclasses
import json
from pathlib import Path

import pytest

from datamodules.sealed_files import write_json
from experiments.config import all_fields, load_config
from experiments.show.model_card import newest_verdict
from experiments.show.verdicts import _WITH_EFFECT, _WITHOUT_EFFECT


def write_check(config, advice: str, date: str) -> None:
    """As `experiments.probe` leaves it, as far as a card reads it."""
    path = Path(config.runs) / "probes" / config.name / date / "probe.json"
    path.parent.mkdir(parents=True)
    verdict = {"advice": advice, "reasons": ["because"]}
    content = {"config": dataclasses.asdict(config), "result": {"verdict": verdict}}
    write_json(path, json.loads(json.dumps(content)))


@pytest.mark.parametrize(
    "change",
    [
        "init.reader_from=/runs/step1_vital/other",
        "init.retriever_from=/runs/offshelf_vital/other",
        "reader.name=/models/other",
        "reader.attention_heads=core:8",
        "objective.name=adist",
        "objective.signals.question=0.5",
        "training.num_passages=4",
        "retriever.name=/models/other",
        "retriever.num_layers=2",
        "retrieval.candidates=index",
        "index.factory=HNSW32",
        "data.passages=/other.tsv",
        "data.validation=/other.jsonl",
        "data.max_passages=2000",
        "data.max_train=20",
        "evaluation.answer_match=substring",
    ],
)
def test_the_verdict_on_another_teacher_or_other_passages_is_not_quoted(tmp_path, change):
    checked = load_config("quickstart", [f"runs={tmp_path}"])
    write_check(checked, "go", "20260101-000000")
    assert newest_verdict(checked) == "go (because)"
    assert newest_verdict(load_config("quickstart", [f"runs={tmp_path}", change])) is None


@pytest.mark.parametrize(
    "change",
    [
        "seed=3",
        "training.retriever_lr=1e-2",
        "training.train_reader=true",
        "trainer.max_steps=7",
        "trainer.loggers=[csv]",
        "data.batch_size=3",
        "reader.read_once=false",
        "reader.lora_rank=4",
        "retriever.dropout=0.5",
        "retrieval.bm25_baseline=false",
        "index.refresh=3",
        "evaluation.hit_rate_ks=[2]",
        "stopping.enabled=false",
        "collapse.enabled=false",
    ],
)
def test_how_a_run_is_trained_and_measured_does_not_matter(tmp_path, change):
    write_check(load_config("quickstart", [f"runs={tmp_path}"]), "go", "20260101-000000")
    assert newest_verdict(load_config("quickstart", [f"runs={tmp_path}", change])) == "go (because)"


def test_the_newest_check_counts(tmp_path):
    config = load_config("quickstart", [f"runs={tmp_path}"])
    for advice, date in (
        ("unsure", "20260101-000000"),
        ("no-go", "20260103-000000"),
        ("go", "20260102-000000"),
    ):
        write_check(config, advice, date)
    assert newest_verdict(config) == "no-go (because)"


def test_what_is_listed_are_settings():
    keys = {key for key, _ in all_fields()}
    assert keys >= _WITHOUT_EFFECT | _WITH_EFFECT
    assert {key.partition(".")[0] for key in _WITH_EFFECT} <= _WITHOUT_EFFECT, "else they count anyway"
