"""An experiment of the paper as a whole: two processes, killed and resumed, come to what one does."""

import gzip
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import index_builder, refresh_index
from datamodules.embedding_matrix import EmbeddingMatrix
from experiments import run
from experiments.config import load_config
from experiments.planning import model_sizes
from experiments.runs import RunFolder
from lightning_modules.metrics.question_values import QuestionValues
from tests.experiments.test_data_files import gold_titles_json, passages_tsv, questions_csv
from tests.experiments.test_processes import command, others_of, told_of_death, wait_for
from tests.model_hub import model_files, serve_models
from tests.tiny_models import save_tiny_models
from tests.toy_files import as_overrides, save_noun_tagger

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")

NUM_HEADS = 4
"""Of the tiny reader."""

RUN = """
import sys
from experiments import run
from tests.experiments.test_paper_run import as_if_large

if __name__ == "__main__":
    as_if_large()
    sys.exit(run.main())
"""


def as_if_large(patch: Callable[..., object] = setattr) -> None:
    """Treats the knowledge base as one of Wikipedia's size, and models as large as their files are.

    Its embeddings are in a file, in several chunks, and of several processes each searches a part.
    """
    patch(model_sizes, "PUBLISHED", {})
    patch(refresh_index, "IndexBuilder", partial(index_builder.IndexBuilder, largest_in_memory_bytes=0))
    patch(index_builder, "MatrixShape", partial(index_builder.MatrixShape, rows_a_chunk=8))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The hub's cache, with tiny models under the names and commits of the paper's, fetched from a hub."""
    folder = tmp_path / "cache"
    with serve_models(str(folder), monkeypatch) as hub:
        folders = save_tiny_models(tmp_path / "published", family="falcon_rw")
        config = load_config("offshelf_nq")
        for name, saved in zip((config.reader.name, config.retriever.name), folders, strict=True):
            repository, _, commit = name.partition("@")
            weights = saved / "model.safetensors"
            torch.save(load_file(weights), saved / "pytorch_model.bin")  # all that is published of both
            weights.unlink()
            hub.add(repository, commit, model_files(saved))
        yield folder


def settings_of_run(folder: Path) -> dict[str, object]:
    """Writes small files under the published names; the experiment's steps, divided by 500 and cut at 20.

    Without dropout, of which each process draws its own.
    """
    root = folder / "data"
    root.mkdir()
    for split, size in (("train", 9), ("dev", 5), ("test", 7)):
        (root / f"nq-{split}.qa.csv").write_bytes(questions_csv(size))
    (root / "nq-dev_gold_info.json.gz").write_bytes(gold_titles_json(5))
    (root / "psgs_w100.tsv.gz").write_bytes(gzip.compress(passages_tsv()))
    return {
        "runs": folder / "runs",
        "data.root": root,
        "data.verify_sizes": "false",
        "data.noun_model": save_noun_tagger(folder / "nouns"),
        "reader.max_new_tokens": 4,
        "retriever.dropout": 0.0,
        "training.retriever_lr": 3e-4,
        "training.retriever_warmup_steps": 4,
        "training.reader_lr": 1e-4,
        "training.reader_warmup_steps": 4,
        "trainer.max_steps": 20,
        "trainer.validate_every_steps": 4,
        "trainer.checkpoint_every_steps": 2,
        "trainer.accelerator": "cpu",
        "trainer.progress_bar": "false",
        "index.refresh": '"0-2:1,2-20:4"',
        "index.validation_passages": 12,
        "evaluation.hit_rate_ks": "[1,5]",
        "index.batch_size": 8,
        "evaluation.num_read": 3,
        "evaluation.num_read_test": 3,
    }


def json_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def steps_validated(folder: Path) -> list[int]:
    """Of the one run."""
    found = folder.glob("runs/offshelf_nq/*/validations.jsonl")
    return [line["step"] for path in found for line in json_lines(path)]


def close_to(values: dict) -> Any:
    return pytest.approx(values, rel=1e-5, abs=1e-5, nan_ok=True)


def logged(made: RunFolder) -> dict[str, dict[int, float]]:
    """All that was logged but times, by step: losses, learning rates, validations, staleness."""
    events = EventAccumulator(str(next(made.path.glob("tensorboard*"))))
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("time/")]
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in tags}


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Leaves of what JSON holds, by their path."""
    if not isinstance(value, dict | list):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {key: leaf for part, inner in items for key, leaf in flat(inner, f"{name}/{part}").items()}


def same(found: Any, expected: Any) -> None:
    """Numbers within 1e-5, all else equal but the checksums of such numbers."""
    found, expected = (
        {
            name: leaf
            for name, leaf in flat(value).items()
            if not name.startswith(("/checksum", "/predictions/"))
        }
        for value in (found, expected)
    )
    assert found.keys() == expected.keys()
    numbers = [name for name, value in expected.items() if isinstance(value, float)]
    assert {n: found[n] for n in numbers} == close_to({n: expected[n] for n in numbers})
    others = expected.keys() - {*numbers}
    assert {n: found[n] for n in others} == {n: expected[n] for n in others}


def predictions(path: Path) -> dict[str, dict]:
    """Of all processes."""
    return {line["id"]: line for part in path.parent.glob(f"{path.name}*") for line in json_lines(part)}


def start_of(made: RunFolder) -> dict:
    """What was measured of the starting checkpoint, question by question in whichever order."""
    kept = json.loads(made.start.read_text())
    found = QuestionValues.from_json(kept.pop("instances"))
    by_question = {n: dict(zip(found.question_ids, of, strict=True)) for n, of in found.values.items()}
    return {**kept, "instances": by_question}


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    """Without the reader's biases of keys.

    Attention is the same whatever they are, so their gradient is rounding error, which Adam makes a step of.
    """
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        if name.endswith("query_key_value.bias"):
            weights[name] = weights[name].view(NUM_HEADS, 3, -1)[:, [0, 2]]
    return weights


def compare(made: RunFolder, expected: RunFolder) -> None:
    summaries = [json.loads(of_run.summary.read_text()) for of_run in (made, expected)]
    for summary in summaries:
        del summary["times_s"]
    same(*summaries)
    same(start_of(made), start_of(expected))
    same(*({line["step"]: line["metrics"] for line in json_lines(r.validations)} for r in (made, expected)))
    same(logged(made), logged(expected))
    for name in ("predictions", "predictions_start"):
        same(*(predictions(getattr(of_run, name)) for of_run in (made, expected)))
    assert json.loads(made.validation_passages.read_text()) == json.loads(
        expected.validation_passages.read_text()
    )
    for name in ("reader", "retriever"):
        weights = [weights_in(getattr(of_run, name)) for of_run in (made, expected)]
        torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-5)


def test_two_processes_killed_and_resumed_come_to_what_one_does(tmp_path, cache, monkeypatch):
    """Lightning starts the second process by itself; the run goes on with those that torchrun starts."""
    settings = settings_of_run(tmp_path)
    as_if_large(monkeypatch.setattr)
    alone = {**settings, "runs": tmp_path / "alone", "data.batch_size": 2}
    assert run.main(["--exp", "offshelf_nq", *as_overrides(alone)]) == 0
    [whole] = (RunFolder(path) for path in tmp_path.glob("alone/offshelf_nq/*"))
    summary = json.loads(whole.summary.read_text())
    assert summary["index_refreshes"] == [1, 2, 6, 10, 14, 18]
    assert summary["stopped"] == "all 20 steps done"
    assert summary["best_step"] is not None, "what is exported was trained"
    assert [line["step"] for line in json_lines(whole.validations)] == [0, 4, 8, 12, 16, 20]

    script = tmp_path / "run.py"
    script.write_text(RUN)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))  # for other processes than this one
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    program = (str(script),)
    of_two = as_overrides({**settings, "trainer.devices": 2})
    started = command("--exp", "offshelf_nq", *of_two, program=program)
    wait_for(lambda: 8 in steps_validated(tmp_path), started)
    [made] = (RunFolder(path) for path in tmp_path.glob("runs/offshelf_nq/*"))
    [other] = others_of(started, program)
    other.kill()
    _, said = started.communicate(timeout=60)
    assert said.count("error: ") == 1, said[-3000:]
    assert said.strip().splitlines()[-1] == told_of_death(made, "process 2 of 2 died (SIGKILL)")
    assert "Traceback" not in said
    assert 20 not in steps_validated(tmp_path), "it was killed in the middle"

    resumed = command("--resume", str(made.path), launcher=TORCHRUN, program=program)
    shown, said = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, said[-3000:]
    assert shown.count("run folder: ") == shown.count("ended because") == 1
    assert "sync_dist" not in said
    compare(made, whole)
    kept = [path.parent for path in made.index.glob("*/embeddings.f16")]
    assert {len(EmbeddingMatrix.attach(folder).shape.chunks) for folder in kept} == {3}, "each searches some"
