"""Whole runs on toy files: what a run leaves behind, how runs build on each other, and interruptions."""

import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning import Callback
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import (
    EventAccumulator as PluginEventAccumulator,
)

from callbacks.checkpoint_files import load_sealed
from callbacks.stop_on_interrupt import SCHEDULER_SIGNALS
from datamodules.passages import KnowledgeBase
from datamodules.sealed_files import read_json, seal, write_json
from experiments import build as build_module
from experiments import run, train
from experiments.command_line import FAILED, REQUEUE, USER_ERROR, quieten
from experiments.config import load_config, read_config
from experiments.runs import RunFolder, create_run
from experiments.show.console import CURVES
from experiments.show.decisions import describe_kept
from experiments.show.report_runs import collect_runs
from experiments.show.report_tables import make_run_table
from experiments.trainer import RunCallbacks
from lightning_modules import RetrieverReaderModule
from lightning_modules.loading import load_causal_lm, load_encoder
from tests.tiny_models import save_tiny_models, toy_questions
from tests.toy_files import as_overrides, toy_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(tmp_path):
    return toy_settings(tmp_path)


def start(settings, experiment="quickstart", code=0, **changes) -> RunFolder:
    """Runs an experiment to its end."""
    changed = {**settings, **{key.replace("__", "."): value for key, value in changes.items()}}
    assert run.main(["--exp", experiment, *as_overrides(changed)]) == code
    return newest(settings, experiment)


def newest(settings, experiment="quickstart") -> RunFolder:
    folders = Path(settings["runs"]).glob(f"{experiment}/*")
    return RunFolder(max(folders, key=lambda folder: folder.stat().st_ctime_ns))


def summary(made: RunFolder) -> dict:
    return json.loads(made.summary.read_text())


def json_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def numbers(made: RunFolder) -> dict:
    """All that must be the same whenever a run is repeated: everything but time and what was read for it."""
    left_out = ("times_s", "read_once")
    return {name: value for name, value in read_json(made.summary).items() if name not in left_out}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def are_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def scalars(made: RunFolder, tag: str) -> dict[int, float]:
    events = EventAccumulator(str(next(made.path.glob("tensorboard*"))))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


def logged_steps(made: RunFolder) -> dict[str, list[int]]:
    """The steps of all scalars and texts that TensorBoard shows, by their tags; without the timings."""
    events = PluginEventAccumulator(str(next(made.path.glob("tensorboard*"))), size_guidance={"tensors": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["tensors"] if not tag.startswith(("time/", "custom_scalars"))]
    return {tag: [event.step for event in events.Tensors(tag)] for tag in tags}


# ---- what a run leaves behind ----


def test_a_whole_run(settings, capsys):
    made = start(settings, evaluation__generate_in_validation="true")
    found = summary(made)
    assert found["decisions"] == []
    assert found["name"] == "quickstart"
    assert found["status"] == "finished"
    assert found["scale"] == "embedded"
    assert found["seed"] == 0
    assert found["stopped"] == "all 4 steps done"
    for name in ("hr_at_1", "hr_at_5", "hr_at_20", "em", "f1", "kl"):
        assert set(found[name]) == {"before", "after"}
        assert found[name]["before"] >= 0
        assert found[name]["after"] >= 0
    for number in (1, 2):
        for part in ("attention", "spearman"):
            assert {"before", "after"} == set(found["indicators"][f"indicator{number}/{part}_p90"])
    assert "teacher/auc" in found["teacher"]
    assert found["index_refreshes"] == [2, 3, 4], "two validations, and the schedule's step 3"
    assert found["times_s"]["total"] > 0
    # the folder
    config = read_config(made.config)
    assert config == load_config(
        "quickstart", as_overrides({**settings, "evaluation.generate_in_validation": "true"})
    )
    environment = json.loads((made.path / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__
    assert len(environment["git_revision"]) == 40
    assert made.last_checkpoint.is_file()
    assert list(made.path.glob("tensorboard,*=*/events.out.tfevents*"))
    for path, when in ((made.predictions, "after"), (made.predictions_start, "before")):
        records = json_lines(path)
        assert {record["id"] for record in records} == {f"q{i}" for i in range(1, 12, 2)}
        f1 = sum(record["f1"] for record in records) / len(records)
        assert f1 == pytest.approx(found["f1"][when])
        hits = [record["first_hit_rank"] == 0 for record in records]
        assert sum(hits) / len(hits) == pytest.approx(found["hr_at_1"][when])
    validations = {line["step"]: line["metrics"] for line in json_lines(made.validations)}
    assert list(validations) == [0, 2, 4]
    events = EventAccumulator(str(next(made.path.glob("tensorboard*"))))
    events.Reload()
    assert [image.step for image in events.Images("hit_rate")] == [4]
    logged = scalars(made, "validation/hr_at_5")
    assert sorted(line["validation/hr_at_5"] for line in validations.values()) == sorted(logged.values())
    encoder, tokenizer = load_encoder(made.retriever)
    assert tokenizer("Peru")["input_ids"]
    assert encoder.config.num_hidden_layers == 3
    assert not made.reader.exists(), "not trained, so not saved"
    assert not list(made.path.rglob("*.partial"))
    shown = capsys.readouterr().out
    for part in ("Hit Rate@5", "before", "after", "Indicator 1", "all 4 steps done", "tensorboard --logdir"):
        assert part in shown
    assert str(made.summary) in shown
    assert describe_kept(found) in words_of(shown)
    assert CURVES in shown
    read, kept = found["read_once"]["read"], found["read_once"]["found"]
    assert min(read, kept) > 0
    assert f"the reader read {read} pairs, found {kept} kept" in words_of(shown)


def words_of(text: str) -> str:
    """The console breaks lines where the terminal ends."""
    return " ".join(text.split())


def test_the_data_decide_what_is_evaluated(settings, capsys):
    made = start(settings, trainer__max_steps=0, reader__context="concatenated")
    found = summary(made)
    assert found["stopped"] == "nothing is trained"
    assert "the reader sees all passages of a question together" in found["read_once"]["why_not"]
    assert f"is kept: {found['read_once']['why_not']}" in words_of(capsys.readouterr().out)
    assert found["hr_at_5"]["before"] == found["hr_at_5"]["after"]
    assert sum("metrics" in record for record in json_lines(made.predictions)) == 6
    assert not made.retriever.exists()
    assert not made.last_checkpoint.exists()
    assert made.predictions.is_file()
    assert not made.predictions_start.exists(), "the start is the end"
    assert not made.validations.exists()


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_closed_book_run_only_asks(tmp_path, family):
    settings = toy_settings(tmp_path)
    reader, _ = save_tiny_models(tmp_path / "other", family)
    changes = {"reader__name": reader, "evaluation__num_read_test": 5, "trainer__max_steps": 0}
    made = start(settings, evaluation__closed_book="true", **changes)
    found = summary(made)
    assert set(found["em"]) == {"before", "after"}
    assert found["f1"]["before"] >= 0
    assert not {name for name in found if name.startswith(("hr_at", "kl"))}
    assert found["indicators"] == found["teacher"] == {}
    records = [json.loads(line) for line in made.predictions.read_text().splitlines()]
    assert ["prediction" in record for record in records] == [True] * 5 + [False]
    assert all(record["passages"] == [] and record["first_hit_rank"] is None for record in records)
    assert not list((tmp_path / "runs").rglob("*.faiss"))


@pytest.mark.parametrize("kind", ["closed_book", "retrieve_only"])
def test_the_total_time_counts_imports(settings, kind):
    changes = {f"evaluation.{kind}": "true", "trainer.max_steps": 0}
    config = load_config("quickstart", as_overrides({**settings, **changes}))
    quieten()
    times_s = train.run_experiment(config, create_run(config), time.perf_counter() - 100)["times_s"]
    assert times_s["imports"] == pytest.approx(100, abs=1)
    assert times_s["total"] >= times_s["imports"] + times_s["load"] - 0.1, "rounded"


def test_a_run_that_only_retrieves_loads_no_reader(settings, monkeypatch):
    whole = summary(start(settings, trainer__max_steps=0))
    monkeypatch.setattr(train, "build_reader", lambda *args: pytest.fail("loaded a reader"))
    made = start(settings, evaluation__retrieve_only="true", trainer__max_steps=0)
    found = summary(made)
    for k in (1, 5, 20):
        assert found[f"hr_at_{k}"] == whole[f"hr_at_{k}"]
    assert not {"em", "f1", "kl"} & found.keys()
    assert found["indicators"] == {}
    records = [json.loads(line) for line in made.predictions.read_text().splitlines()]
    assert sum(record["first_hit_rank"] == 0 for record in records) / 6 == found["hr_at_1"]["before"]
    assert not any("prediction" in record or "readings" in record for record in records)


def test_a_knowledge_base_slice_holds_the_gold_passages(settings, tmp_path):
    """The gold passage lies at the end of the file, after more passages than the slice has room for."""
    question = toy_questions()[11]
    record = {"question": question.text, "answers": question.answers, "title": f"Rivers of {question.title}"}
    path = tmp_path / "titled.jsonl"
    path.write_text(json.dumps(record) + "\n")
    files = {"data__train": path, "data__validation": path, "data__test": path}
    made = start(settings, **files, data__max_passages=6, training__num_passages=5, trainer__max_steps=0)
    knowledge_base = KnowledgeBase(made.path / "knowledge_base.arrow")
    assert len(knowledge_base) == 6
    assert [passage.id for passage in knowledge_base] == ["c0", "c1", "c2", "c3", "c4", "r11"]


def test_a_slice_is_the_same_whether_a_run_trains_or_not(settings, tmp_path):
    """Else the start of a run could not be compared with the checkpoint that was only measured."""
    question = toy_questions()[11]
    record = {"question": question.text, "answers": question.answers, "title": f"Rivers of {question.title}"}
    path = tmp_path / "titled.jsonl"
    path.write_text(json.dumps(record) + "\n")
    ids = []
    for steps in (0, 2):
        changes = {"data__train": path, "data__max_passages": 6, "training__num_passages": 5}
        made = start(settings, **changes, trainer__max_steps=steps)
        ids.append([passage.id for passage in KnowledgeBase(made.path / "knowledge_base.arrow")])
    assert ids[0] == ids[1]
    assert "r11" in ids[0]


# ---- which checkpoint is exported ----


class KilledError(BaseException):
    """Passes through everything, as a kill does."""


class KillAt(Callback):
    """Dies in a hook of training, at an optimizer step."""

    def __init__(self, hook: str, step: int) -> None:
        self.step = step
        setattr(self, hook, self._die)

    def _die(self, trainer, *_args) -> None:
        if trainer.state.fn == "fit" and trainer.global_step == self.step:
            raise KilledError


def start_and_kill(settings, monkeypatch, hook, step, experiment="quickstart", **changes) -> RunFolder:
    all_callbacks = RunCallbacks.all
    with monkeypatch.context() as patched:
        patched.setattr(RunCallbacks, "all", lambda self: [*all_callbacks(self), KillAt(hook, step)])
        with pytest.raises(KilledError):
            start(settings, experiment, **changes)
    return newest(settings, experiment)


def resume(made: RunFolder) -> RunFolder:
    assert run.main(["--resume", str(made.path)]) == 0
    return made


@pytest.mark.parametrize("reading", [-1.0, math.nan, 2.0, "tie"])
def test_the_best_of_start_and_checkpoints_is_exported(settings, monkeypatch, capsys, reading):
    """The validation reading of the start is replaced by one that loses, is undefined, wins, or ties."""
    made = start_and_kill(settings, monkeypatch, "on_train_end", 4, training__retriever_lr=3e-3)
    kept = read_json(made.start)
    if reading == "tie":
        reading = best_reading(torch.load(made.last_checkpoint, weights_only=True))[0]
    kept["validation"]["validation/hr_at_5"] = reading
    write_json(made.start, kept)
    found = summary(resume(made))
    hit_rates = scalars(made, "validation/hr_at_5")
    exported, initial = weights(made.retriever), weights(Path(settings["retriever.name"]))
    if reading < 0 or math.isnan(reading):
        validated = {step: rate for step, rate in hit_rates.items() if step > 0}
        best = max(validated, key=lambda step: validated[step])
        assert found["best_step"] == best
        assert found["chosen_by"]["kept"] == pytest.approx(validated[best])
        assert describe_kept(found).startswith(f"best checkpoint: step {best}, validation/hr_at_5 ")
        checkpoint = torch.load(made.checkpoints / f"best-step={best}.ckpt", weights_only=True)
        prefix = "retriever.query_encoder."
        saved = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if prefix in k}
        assert are_equal(exported, saved)
        assert not are_equal(exported, initial)
    else:
        assert found["best_step"] is None
        last = hit_rates[max(hit_rates)]
        of_start = f"last validation/hr_at_5 {last:.3f} ({last - reading:+.3f})"
        assert describe_kept(found) == (f"no checkpoint beat the start; starting weights kept; {of_start}")
        assert describe_kept(found) in words_of(capsys.readouterr().out)
        assert are_equal(exported, initial)
        assert found["hr_at_5"]["before"] == found["hr_at_5"]["after"]


def test_validations_are_logged_at_the_steps_that_they_follow(settings):
    made = start(settings)
    for tag in ("validation/hr_at_5", "validation/kl", "indicator1/spearman_p90"):
        assert list(scalars(made, tag)) == [0, 2, 4]
    with pytest.raises(KeyError):
        scalars(made, "step")


def test_without_monitor_the_last_weights_are_exported(settings):
    made = start(settings, evaluation__monitor="null")
    last = torch.load(made.last_checkpoint, weights_only=True)["state_dict"]
    exported = weights(made.retriever)
    assert are_equal(exported, {name: last[f"retriever.query_encoder.{name}"] for name in exported})
    assert [path.name for path in made.checkpoints.iterdir()] == ["last.ckpt"]


def test_checkpoints_hold_the_trained_models_only(settings):
    names = torch.load(start(settings).last_checkpoint, weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in names} == {"retriever"}


STALE = {"index__refresh": '"-1"', "index__refresh_before_validation": "false"}


def test_without_a_fresh_validation_the_last_weights_are_kept(settings, caplog):
    made = start(settings, **STALE, training__retriever_lr=3e-3)
    found = summary(made)
    assert found["stopped"].startswith(
        "all 4 steps done; no validation was on a fresh index, so no checkpoint"
    )
    assert "set index.refresh_before_validation=true, or index.refresh to steps" in found["stopped"]
    assert caplog.text.count("no validation of this run will be on a fresh index (index.refresh=-1") == 1
    assert found["best_step"] is None
    last = torch.load(made.last_checkpoint, weights_only=True)["state_dict"]
    exported = weights(made.retriever)
    assert are_equal(exported, {name: last[f"retriever.query_encoder.{name}"] for name in exported})
    assert not are_equal(exported, weights(Path(settings["retriever.name"])))
    assert [path.name for path in made.checkpoints.iterdir()] == ["last.ckpt"]
    assert scalars(made, "validation/index_is_fresh") == {0: 1.0, 2: 0.0, 4: 0.0}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"index.refresh": '"0-100:3"'}, True),
        ({"index.refresh": '"0-100:4"'}, False),
        ({"index.refresh": "when_stale"}, False),
        ({"index.refresh_before_validation": "true"}, False),
        ({"training.train_retriever": "false"}, False),
        ({"retriever.tied": "false", "retriever.train_passage_encoder": "false"}, False),
        ({"trainer.max_steps": 1}, False),
    ],
)
def test_schedules_that_leave_all_validations_stale_are_told(settings, changes, expected):
    stale = {key.replace("__", "."): value for key, value in STALE.items()}
    config = load_config("quickstart", as_overrides({**settings, **stale, **changes}))
    assert train.stales_all_validations(config) == expected


# ---- runs that build on each other ----


@pytest.fixture
def built(monkeypatch):
    """Weights of all modules as they were built, before any training."""
    modules = []

    def build(*args, **settings):
        module = original(*args, **settings)
        modules.append({k: v.detach().clone() for k, v in module.state_dict().items()})
        return module

    original = build_module.build_models
    monkeypatch.setattr(build_module, "build_models", build)
    return modules


@pytest.mark.parametrize("by", ["name", "folder"])
def test_step2_starts_from_the_reader_of_step1(settings, built, capsys, by):
    common = {"evaluation__generate_in_validation": "false"}
    step1 = start(settings, "step1_vital", evaluation__monitor="null", trainer__max_steps=2, **common)
    trained = load_causal_lm(step1.reader)[0].state_dict()
    initial = load_causal_lm(settings["reader.name"])[0].state_dict()
    assert not are_equal(trained, initial)
    assert not step1.retriever.exists()
    named = {} if by == "name" else {"init__reader_from": step1.path}
    step2 = start(settings, "step2_vital", trainer__max_steps=2, **common, **named)
    first, second = (
        {name.removeprefix("reader.model."): value for name, value in weights.items() if "reader." in name}
        for weights in built[:2]
    )
    assert are_equal(first, initial)
    assert are_equal(second, trained)
    assert summary(step2)["started_from"] == {"reader": str(step1.reader)}
    assert read_config(step2.config).init.reader_from == str(step1.path), "whatever is the latest tomorrow"
    damage(step1.reader / "model.safetensors")
    again = as_overrides({**settings, "init.reader_from": step1.path})
    assert run.main(["--exp", "step2_vital", *again]) == USER_ERROR
    assert "model.safetensors is damaged" in capsys.readouterr().err
    assert "started_from" in summary(step1)
    assert not step2.reader.exists()


def damage(file: Path) -> None:
    """Changes a byte in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_the_retriever_of_an_earlier_run(settings, built):
    """An untied one, whose encoders have a folder each, and with its own number of layers."""
    untied = {"retriever__tied": "false", "evaluation__monitor": "null", "trainer__max_steps": 2}
    first = start(settings, **untied, retriever__num_layers=2)
    folders = {
        "query_encoder": first.retriever / "queries",
        "passage_encoder": first.retriever / "passages",
    }
    assert not are_equal(*map(weights, folders.values()))
    second = start(settings, **untied, init__retriever_from=first.path)
    for encoder, folder in folders.items():
        prefix = f"retriever.{encoder}."
        loaded = {k.removeprefix(prefix): v for k, v in built[1].items() if k.startswith(prefix)}
        assert are_equal(loaded, weights(folder))
    assert summary(second)["started_from"] == {"retriever": str(first.retriever)}


def test_two_encoders_do_not_become_one_unasked(settings, capsys):
    short = {"evaluation__monitor": "null", "trainer__max_steps": 2}
    first = start(settings, **short, retriever__tied="false")
    tied = as_overrides({**settings, "init.retriever_from": first.path})
    assert run.main(["--exp", "quickstart", *tied]) == USER_ERROR
    assert "retriever.tied=false" in capsys.readouterr().err


def test_a_reader_that_learns_by_lora(settings, monkeypatch, built):
    """Checkpoints hold its matrices, a killed run goes on with them, and what is saved is a plain model."""
    changes = {
        "reader__lora_rank": 2,
        "reader__gradient_checkpointing": "true",
        "evaluation__monitor": "null",
    }
    changes |= {"reader__dtype": "bfloat16", "evaluation__generate_in_validation": "false"}
    killed = start_and_kill(
        settings, monkeypatch, "on_train_batch_start", 3, **changes, experiment="step1_vital"
    )
    made = start(settings, "step1_vital", **changes)
    assert numbers(resume(killed)) == numbers(made)
    assert are_equal(weights(killed.reader), weights(made.reader))
    held = torch.load(made.last_checkpoint, weights_only=True)["state_dict"]
    assert held
    assert all(".lora_" in name for name in held)
    plain = load_causal_lm(settings["reader.name"], torch.bfloat16)[0].state_dict()
    trained = load_causal_lm(made.reader)[0].state_dict()
    assert trained.keys() == plain.keys()
    changed = {name for name in plain if not torch.equal(trained[name], plain[name].float())}
    assert changed
    assert all(name.endswith("_proj.weight") for name in changed)
    start(settings, "step2_vital", trainer__max_steps=1, init__reader_from=made.path)
    read = {name.removeprefix("reader.model."): w for name, w in built[-1].items() if "reader." in name}
    assert are_equal(read, trained)


def test_a_reader_that_learnt_nothing_by_lora_is_the_starts(settings):
    made = start(
        settings, "step1_vital", reader__lora_rank=2, evaluation__monitor="validation/index_is_fresh"
    )
    assert summary(made)["best_step"] is None, "nothing beats a tie"
    assert are_equal(weights(made.reader), weights(Path(settings["reader.name"])))


# ---- stopping ----


def test_a_decision_to_stop_is_in_the_summary(settings, monkeypatch, capsys):
    changes = {"stopping__target": -2, "trainer__max_steps": 8, "training__train_reader": "true"}
    made = start(settings, **changes)
    found = summary(made)
    assert found["stopped"].startswith(f"target: {SPEARMAN} = ")
    assert found["stopped"].count("reached the target -2.000; 6 questions are few") == 1
    assert f"ended because: {found['stopped']}" in words_of(capsys.readouterr().out)
    assert found["status"] == "finished"
    assert torch.load(made.last_checkpoint, weights_only=True)["global_step"] == 2
    # killed after the decision, it does not train on
    killed = start_and_kill(settings, monkeypatch, "on_train_end", 2, **changes)
    assert numbers(resume(killed)) == numbers(made)


def test_a_teacher_that_became_worse_stops_the_run(settings, monkeypatch):
    """The start's readings are replaced by those that no later ones come near."""
    changes = {"stopping__patience": 2, "trainer__max_steps": 8, **twelve_validated(settings)}
    changes |= {"training__train_reader": "true"}
    made = start_and_kill(settings, monkeypatch, "on_train_batch_start", 0, **changes)
    raise_start(made.start, to=5.0)
    found = summary(resume(made))
    assert found["stopped"].startswith(f"ineffective: {SPEARMAN} changed by -")
    assert "from the start's 5.000 (11 questions, bounds -" in found["stopped"]
    assert "in 2 validations in a row" in found["stopped"]
    [decision] = found["decisions"]
    assert (decision["step"], decision["action"]) == (4, "stop")
    assert decision["low"] < decision["change"] < decision["high"] < -3
    assert torch.load(made.last_checkpoint, weights_only=True)["global_step"] == 4


def twelve_validated(settings) -> dict:
    """Enough questions to pair."""
    return {"data__validation": settings["data.train"]}


def raise_start(path: Path, to: float) -> None:
    """Puts a start that no reading comes near in the place of Indicator 1's."""
    kept = read_json(path)
    values = kept["instances"]["values"]
    values[SPEARMAN] = [to] * len(kept["instances"]["question_ids"])
    write_json(path, kept)


def test_the_start_of_another_run_is_a_baseline(settings, tmp_path, capsys):
    """And it stays that of the run, whatever becomes of the file."""
    settings = {**settings, "training.train_reader": "true"}
    first = start(settings, **twelve_validated(settings), trainer__max_steps=2)
    assert summary(first)["decisions"] == []
    path = tmp_path / "baseline.json"
    path.write_text(first.start.read_text())
    raise_start(path, to=2.0)
    changes = {"stopping__baseline": path, "stopping__monitors": MONITOR}
    changes |= {"trainer__max_steps": 8, "stopping__patience": 1}
    made = start(settings, **twelve_validated(settings), **changes)
    assert summary(made)["decisions"][0]["baseline"] == pytest.approx(2.0)
    assert torch.load(made.last_checkpoint, weights_only=True)["global_step"] == 2
    assert json.loads(made.start.read_text())["instances"] == json.loads(path.read_text())["instances"]
    # the default validation file of these tests has six questions
    capsys.readouterr()
    overrides = as_overrides({**settings, "stopping.baseline": path, "stopping.monitors": MONITOR})
    assert run.main(["--exp", "quickstart", *overrides]) == USER_ERROR
    assert "only 6 of the questions in" in capsys.readouterr().err


def test_a_threshold_ends_a_run_and_everything_says_so(settings, monkeypatch, capsys):
    """The start's Hit Rate is replaced by one that no later one comes near, 1; killed again after the end."""
    changes = {"stopping__thresholds": '["validation/hr_at_5 >= start - 0.02", "until validation/kl <= -1"]'}
    changes |= {"trainer__max_steps": 8}
    made = start_and_kill(settings, monkeypatch, "on_train_batch_start", 0, **changes)
    kept = read_json(made.start)
    kept["validation"]["validation/hr_at_5"] = 1.0
    write_json(made.start, kept)
    with monkeypatch.context() as patched:
        all_callbacks = RunCallbacks.all
        patched.setattr(RunCallbacks, "all", lambda self: [*all_callbacks(self), KillAt("on_train_end", 4)])
        with pytest.raises(KilledError):
            resume(made)
    capsys.readouterr()
    found = summary(resume(made))
    last = json_lines(made.validations)[-1]
    assert last["step"] == 4
    hit_rate = last["metrics"]["validation/hr_at_5"]
    assert found["stopped"] == (
        f"threshold: validation/hr_at_5 is {hit_rate:.4g}, which breaks >= start - 0.02 = 0.98 (start: 1) in "
        "2 validations in a row (6 questions): the retriever finds passages with an answer for fewer "
        "questions, so training harms it; 6 questions are few: each is 0.167 of the mean, and others may say "
        "otherwise, so give validations more"
    )
    rule = "validation/hr_at_5 >= start - 0.02 for 2 then stop"
    [decision] = found["decisions"]
    assert (decision["step"], decision["action"], decision["rule"]) == (4, "stop", rule)
    assert (decision["baseline"], decision["value"], decision["bound"]) == (1.0, hit_rate, 0.98)
    assert torch.load(made.last_checkpoint, weights_only=True)["global_step"] == 4
    shown = words_of(capsys.readouterr().out)
    assert describe_kept(found) in shown
    assert f"decided at step 4: stop, validation/hr_at_5 is {hit_rate:.3f} (threshold {rule}, bound" in shown
    table = make_run_table([(run, "") for run in collect_runs([made.path])])
    assert "decisions" in table.columns
    assert any(f"step 4: stop, validation/hr_at_5 is {hit_rate:.3f}" in cell for cell in table.rows[0])


def test_the_rules_of_the_paper_are_warned_of_and_followed(settings, caplog):
    changes = {"stopping__rule": "paper", "evaluation__percentiles": "[50]", "training__train_reader": "true"}
    found = summary(start(settings, **changes, trainer__max_steps=8))
    assert "the paper's own tables contradict its rules: Indicator 2's attention fell" in caplog.text
    assert found["stopped"].startswith("threshold: indicator")
    bound = "indicator2/spearman_p50 >= 0.3 for 2 then stop"
    assert bound in [decision["rule"] for decision in found["decisions"]]
    assert f"at the start: '{bound}' will act after 2 validations" in caplog.text


def test_switched_off_no_rule_decides(settings):
    changes = {"stopping__thresholds": '["validation/hr_at_5 >= 2 for 1"]', "stopping__enabled": "false"}
    made = start(settings, **changes, trainer__max_steps=2)
    assert summary(made)["stopped"] == "all 2 steps done"
    assert summary(made)["decisions"] == []
    with pytest.raises(KeyError):
        scalars(made, "stopping/threshold_1")


SPEARMAN = "start_candidates/indicator1/spearman_p90"
MONITOR = f"[{SPEARMAN}]"


def test_a_killed_run_measures_on_the_passages_of_its_start(settings, monkeypatch):
    """Also one that has no checkpoint yet: they are in the start's readings."""
    changes = {"training__train_reader": "true", "training__retriever_lr": 1e-2, "trainer__max_steps": 4}
    changes |= twelve_validated(settings)
    reference = start(settings, **changes)
    kept = json.loads(reference.start.read_text())["candidates"]
    assert len(kept) == 12
    for hook, step in (("on_train_batch_start", 0), ("on_train_batch_start", 3)):
        made = resume(start_and_kill(settings, monkeypatch, hook, step, **changes))
        assert json.loads(made.start.read_text())["candidates"] == kept
        assert json_lines(made.validations) == json_lines(reference.validations)
    readings = json_lines(reference.validations)[-1]["metrics"]
    assert {name for name in readings if name.startswith("start_candidates/")} >= {SPEARMAN}


# ---- collapse ----


@pytest.mark.parametrize("monitor", ["validation/hr_at_5", "null"])
@pytest.mark.parametrize("rate", [3.0, 1e30], ids=["embeddings", "numbers"])
def test_a_collapsed_retriever_is_not_exported(settings, monitor, rate, capsys):
    """A learning rate that sends all embeddings to one point, and one that breaks the numbers."""
    is_broken = rate > 3
    made = start(
        settings,
        code=FAILED if is_broken else 0,
        trainer__max_steps=8,
        training__retriever_lr=rate,
        training__retriever_warmup_steps=0,
        trainer__gradient_clip="null",
        evaluation__monitor=monitor,
        trainer__log_every_steps=6,
    )
    found = summary(made)
    assert found["status"] == ("failed" if is_broken else "finished")
    assert found["stopped"].startswith("broken: " if is_broken else "collapse: ")
    assert (f"error: {found['stopped']}" in capsys.readouterr().err) == is_broken
    assert found["hr_at_5"] == {"before": found["hr_at_5"]["before"], "after": found["hr_at_5"]["before"]}
    assert are_equal(weights(made.retriever), weights(Path(settings["retriever.name"])))
    if made.last_checkpoint.exists():
        saved = torch.load(made.last_checkpoint, weights_only=True)["state_dict"]
        assert all(bool(value.isfinite().all()) for value in saved.values())
    if is_broken:
        assert_not_gone_on_with(made, capsys)


def assert_not_gone_on_with(made: RunFolder, capsys) -> None:
    """From the same numbers it would break again, and the way out is said."""
    before = made.summary.read_bytes()
    assert run.main(["--resume", str(made.path)]) == USER_ERROR
    error = capsys.readouterr().err
    assert f"{made.path} ended with broken: " in error
    assert f"init.retriever_from={made.path} training.retriever_lr=2.5e+29" in error
    assert "reader_lr" not in error, "it is frozen"
    assert made.summary.read_bytes() == before


def test_without_the_alarm_broken_numbers_end_the_run_too(settings, capsys):
    changes = {
        "training.retriever_lr": 1e30,
        "training.retriever_warmup_steps": 0,
        "collapse.enabled": "false",
    }
    overrides = as_overrides({**settings, **changes})
    assert run.main(["--exp", "quickstart", *overrides]) == FAILED
    assert "error: broken: weights are NaN or infinite after step" in capsys.readouterr().err


def test_after_a_collapse_the_last_good_weights_are_exported(settings, monkeypatch):
    """Good until the validation at step 4, broken at step 5."""
    all_callbacks = RunCallbacks.all
    monkeypatch.setattr(RunCallbacks, "all", lambda self: [*all_callbacks(self), BreakAt(5)])
    made = start(settings, trainer__max_steps=8, evaluation__monitor="null", code=FAILED)
    assert summary(made)["stopped"].startswith("broken: weights are NaN or infinite after step 5; asked last")
    good = torch.load(made.last_good_checkpoint, weights_only=True)
    assert good["global_step"] == 4
    exported = weights(made.retriever)
    expected = {name: good["state_dict"][f"retriever.query_encoder.{name}"] for name in exported}
    assert are_equal(exported, expected)
    assert not are_equal(exported, weights(Path(settings["retriever.name"])))


@pytest.mark.parametrize(("most", "code"), [(1, 0), (0, FAILED)])
def test_a_question_that_breaks_is_skipped_named_and_counted(settings, monkeypatch, capsys, most, code):
    log_p_retr = RetrieverReaderModule.log_p_retr

    def broken(self, batch, in_batch=False):
        found = log_p_retr(self, batch, in_batch)
        if self.trainer.training:
            factors = [torch.nan if question.id == "q7" else 1.0 for question in batch.questions]
            found = found * torch.tensor(factors)[:, None]
        return found

    monkeypatch.setattr(RetrieverReaderModule, "log_p_retr", broken)
    made = start(settings, code=code, trainer__max_steps=6, trainer__max_skipped_in_a_row=most)
    found = summary(made)
    [skipped] = found["skipped"]
    assert skipped["questions"] == ["q7"]
    shown = capsys.readouterr()
    assert "steps skipped, their numbers being broken: 1 (questions q7)" in shown.out
    if code:
        assert found["status"] == "failed"
        said = f"in 1 steps in a row, up to step {skipped['step']}, and trainer.max_skipped_in_a_row=0"
        assert found["stopped"] == f"broken: the loss or gradient was NaN or infinite {said}; questions: q7"
        assert f"error: {found['stopped']}" in shown.err
        assert made.retriever.is_dir()
    else:
        assert (found["status"], found["stopped"]) == ("finished", "all 6 steps done")


class BreakAt(Callback):
    """Puts a NaN into the retriever after an optimizer step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, *_args) -> None:
        if trainer.global_step == self.step:
            next(pl_module.retriever.parameters()).data[0] = torch.nan


# ---- interruptions ----


def assert_same(made: RunFolder, reference: RunFolder) -> None:
    """The results, and the state of training at its end, whichever checkpoint the results are of."""
    assert numbers(made) == numbers(reference)
    for kept in ("predictions", "predictions_start", "validations"):
        assert json_lines(getattr(made, kept)) == json_lines(getattr(reference, kept)), kept
    assert are_equal(weights(made.retriever), weights(reference.retriever))
    states = [torch.load(folder.last_checkpoint, weights_only=True) for folder in (made, reference)]
    assert states[0]["global_step"] == states[1]["global_step"]
    assert are_equal(*(state["state_dict"] for state in states))
    assert best_reading(states[0]) == best_reading(states[1])


def best_reading(state: dict) -> tuple[float, str]:
    """Of the best checkpoint so far: its reading, and its name."""
    [best] = [value for name, value in state["callbacks"].items() if name.startswith("SaveBest")]
    return best["score"], f"best-step={best['step']}.ckpt"


INTERRUPTED = {"data__batch_size": 3, "retriever__dropout": 0.1}
"""Epochs of four steps, validations every two, and dropout."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Settings of a run, and that run without interruption."""
    settings = toy_settings(tmp_path_factory.mktemp("whole"), trainer__max_steps=9)
    return settings, start(settings, **INTERRUPTED)


def test_same_seed_same_numbers(whole):
    settings, reference = whole
    again, other = start(settings, **INTERRUPTED), start(settings, **INTERRUPTED, seed=1)
    assert again.path != reference.path
    assert_same(again, reference)
    ended = [torch.load(folder.last_checkpoint, weights_only=True) for folder in (other, reference)]
    assert not are_equal(*(state["state_dict"] for state in ended))


@pytest.mark.parametrize(
    ("hook", "step"),
    [
        ("on_train_batch_start", 0),  # before the first checkpoint
        ("on_validation_batch_end", 2),  # within a validation
        ("on_validation_end", 4),  # after one, at the end of an epoch, before its checkpoint is saved
        ("on_train_batch_start", 5),  # within the second epoch
        ("on_train_end", 9),  # when all is done but the test
    ],
)
def test_a_killed_run_goes_on_to_the_same_numbers(whole, monkeypatch, hook, step):
    settings, reference = whole
    made = start_and_kill(settings, monkeypatch, hook, step, **INTERRUPTED)
    assert not made.summary.exists()
    assert made.last_checkpoint.exists() == (step > 0)
    made.last_good_checkpoint.parent.mkdir(exist_ok=True)
    made.last_good_checkpoint.touch()
    resume(made)
    assert_same(made, reference)
    expected = {path.name for path in reference.checkpoints.iterdir()}
    assert {path.name for path in made.checkpoints.iterdir()} >= expected
    assert not made.last_good_checkpoint.exists()
    curves = logged_steps(made)
    assert curves == logged_steps(reference), "every point once, at its step"
    assert curves["train/kl"] == curves["lr-AdamW"] == list(range(1, 10))
    assert curves["validation/hr_at_5"] == [0, 2, 4, 6, 8]
    assert curves["test/hr_at_5"] == [0, 9]


def test_a_run_that_was_moved_goes_on_to_the_same_numbers(whole, monkeypatch, tmp_path):
    """When all was done but the test, and the best checkpoint is known by its score alone."""
    settings, reference = whole
    made = start_and_kill(settings, monkeypatch, "on_train_end", 9, **INTERRUPTED)
    moved = RunFolder(made.path.rename(tmp_path / "moved"))
    assert summary(resume(moved))["best_step"] == summary(reference)["best_step"]
    assert_same(moved, reference)
    held = load_sealed(moved.last_checkpoint)["callbacks"]
    assert str(made.path.parent) not in str(held), "no path in a checkpoint"


def test_a_run_recovers_from_damage(whole, monkeypatch, caplog):
    """Of its last checkpoint, its index (of older weights), its start and its curves, all at once."""
    settings, reference = whole
    changes = {**INTERRUPTED, "index__refresh_before_validation": "false"}
    reference = start(settings, **changes)
    made = start_and_kill(settings, monkeypatch, "on_train_batch_start", 5, **changes)
    damage(made.last_checkpoint)
    assert list(made.index.iterdir())
    shutil.rmtree(made.index)
    for torn in (made.start, made.validations):
        torn.write_text(torn.read_text()[:-30])
    resume(made)
    assert_same(made, reference)
    for said in (
        "last.ckpt is damaged: bytes 0 to",
        "going on from the checkpoint before it",
        "start.json is damaged: no JSON",
        "the start is measured again",
        "the index that the checkpoint was trained with is made again",
    ):
        assert said in caplog.text, said
    assert {path.name for path in made.checkpoints.iterdir()} <= {
        "last.ckpt",
        f"best-step={summary(made)['best_step']}.ckpt",
    }


def test_without_its_encoder_a_lost_index_is_told(whole, monkeypatch, caplog):
    settings, _ = whole
    changes = {**INTERRUPTED, "index__refresh_before_validation": "false"}
    made = start_and_kill(settings, monkeypatch, "on_train_batch_start", 5, **changes)
    shutil.rmtree(made.index)
    for file in made.checkpoints.glob("index-*.ckpt"):
        file.unlink()
    resume(made)
    assert "this is not the same run any more" in caplog.text


def test_a_damaged_checkpoint_without_another_is_a_message(whole, monkeypatch, capsys):
    settings, _ = whole
    made = start_and_kill(settings, monkeypatch, "on_train_batch_start", 2, **INTERRUPTED)
    for file in (made.last_checkpoint, made.previous_checkpoint):
        file.write_bytes(b"torn")
    capsys.readouterr()
    assert run.main(["--resume", str(made.path)]) == USER_ERROR
    said = capsys.readouterr().err
    assert said.startswith(f"error: {made.last_checkpoint} is damaged")
    assert f"or delete {made.checkpoints}: the run then trains again from its start" in said
    assert not (made.path / "run.lock").exists()


def test_a_damaged_summary_is_written_anew(whole, caplog):
    settings, _ = whole
    made = start(settings, trainer__max_steps=0)
    before = numbers(made)
    made.summary.write_text(made.summary.read_text()[:100])
    resume(made)
    assert "summary.json is damaged" in caplog.text
    assert numbers(made) == before


def test_accumulation_and_both_models(settings, monkeypatch):
    changes = {
        "data__batch_size": 4,
        "trainer__accumulate": 2,
        "training__train_reader": "true",
        "evaluation__monitor": "null",
        "index__refresh_before_validation": "false",
        "retriever__dropout": 0.1,
    }
    reference = start(settings, **changes)
    made = resume(start_and_kill(settings, monkeypatch, "on_train_batch_start", 3, **changes))
    assert numbers(made) == numbers(reference)
    assert are_equal(weights(made.retriever), weights(reference.retriever))
    assert are_equal(weights(made.reader), weights(reference.reader))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_real_signal(whole, tmp_path, number):
    """A process of its own, hit as soon as it has saved something."""
    settings, reference = whole
    changed = {key.replace("__", "."): value for key, value in INTERRUPTED.items()}
    arguments = as_overrides({**settings, **changed, "runs": tmp_path / "runs"})
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_RUN, "--exp", "quickstart", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("runs/*/*/checkpoints/last.ckpt")) and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(number)
    errors = process.communicate(timeout=300)[1]
    [folder] = (tmp_path / "runs").glob("quickstart/*")
    made = RunFolder(folder)
    step = torch.load(made.last_checkpoint, weights_only=True)["global_step"]
    assert 1 <= step < 9
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert f"go on with: python -m experiments.run --resume {made.path}" in errors
        assert "Traceback" not in errors
        assert summary(made)["status"] == "interrupted"
    else:
        assert process.returncode == -signal.SIGKILL
        assert not made.summary.exists()
    resume(made)
    assert_same(made, reference)


class Send(Callback):
    """A signal to this very process, in the middle of a training step."""

    def __init__(self, number: int, step: int) -> None:
        self.number, self.step = number, step

    def on_train_batch_start(self, trainer, *_args) -> None:
        if trainer.global_step == self.step:
            signal.raise_signal(self.number)


def start_with(callback, settings, monkeypatch, code, **changes) -> RunFolder:
    all_callbacks = RunCallbacks.all
    with monkeypatch.context() as patched:
        patched.setattr(RunCallbacks, "all", lambda self: [*all_callbacks(self), callback])
        return start(settings, code=code, **changes)


@pytest.mark.parametrize("number", SCHEDULER_SIGNALS)
def test_a_schedulers_signal_asks_for_the_run_to_be_started_again(whole, monkeypatch, capsys, number):
    settings, reference = whole
    made = start_with(Send(number, 2), settings, monkeypatch, REQUEUE, **INTERRUPTED)
    assert torch.load(made.last_checkpoint, weights_only=True)["global_step"] == 3, "the step in hand"
    assert summary(made)["status"] == "interrupted"
    assert f"go on with: python -m experiments.run --resume {made.path}" in capsys.readouterr().err
    if number == signal.SIGUSR1:
        assert_same(resume(made), reference)


def test_a_scheduler_is_heeded_while_models_are_loaded(settings, monkeypatch):
    monkeypatch.setattr(train, "build", lambda *_args: signal.raise_signal(signal.SIGTERM))
    assert run.main(["--exp", "quickstart", *as_overrides(settings)]) == REQUEUE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_was_done_is_not_started_again(settings, monkeypatch, capsys, number):
    monkeypatch.setattr(RunFolder, "tidy", lambda *_args: signal.raise_signal(number))
    made = start(settings, trainer__max_steps=1)
    assert summary(made)["status"] == "finished"
    assert f"interrupted; when all was done: {made.summary}" in capsys.readouterr().err


class FillDisk(Callback):
    """From a step on no file may become as large as a checkpoint, as if there were no room."""

    limit = 100_000

    def on_train_batch_start(self, trainer, *_args) -> None:
        if trainer.global_step == 2:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, hard))


def test_a_disk_without_room_ends_with_one_message_and_the_run_goes_on_later(whole, monkeypatch, capsys):
    settings, reference = whole
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        made = start_with(FillDisk(), settings, monkeypatch, USER_ERROR, **INTERRUPTED)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    errors = capsys.readouterr().err
    [line] = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert f"{made.last_checkpoint} cannot be written (it could not be written whole, probably for" in line
    assert line.endswith(f"then go on with: python -m experiments.run --resume {made.path}")
    assert "Traceback" not in errors
    assert torch.load(made.last_checkpoint, weights_only=True)["global_step"] == 2
    assert_same(resume(made), reference)


class Malicious:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_malicious_checkpoint_is_refused_unexecuted(settings, monkeypatch, tmp_path, capsys):
    made = start_and_kill(settings, monkeypatch, "on_train_batch_start", 1)
    torch.save({"state_dict": Malicious(f"touch {tmp_path / 'owned'}")}, made.last_checkpoint)
    seal(made.last_checkpoint)
    capsys.readouterr()
    assert run.main(["--resume", str(made.path)]) == USER_ERROR
    errors = capsys.readouterr().err
    [line] = errors.strip().splitlines()
    assert line.startswith(f"error: {made.last_checkpoint} is refused, and nothing of it was run: ")
    assert "asks for" in line
    assert "system" in line
    assert not (tmp_path / "owned").exists()


def test_a_gpu_that_is_too_small_says_what_to_set(settings, monkeypatch, capsys):
    """Simulated: passes of more than one question have no room. The run goes on with halves of a batch."""
    reference = start(settings)
    losses = RetrieverReaderModule._losses

    def short(self, batch):
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
        return losses(self, batch)

    monkeypatch.setattr(RetrieverReaderModule, "_losses", short)
    capsys.readouterr()
    made = start(settings, code=USER_ERROR)
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(
        "error: the GPU is out of memory (CUDA out of memory. Tried to allocate 2.00 GiB); "
    )
    for way in (
        "trainer.auto_batch=true",
        "retriever.num_at_once=16",
        "data.batch_size=1 trainer.accumulate=2",
    ):
        assert way in line
    assert f"--resume {made.path} trainer.auto_batch=true" in line
    assert run.main(["--resume", str(made.path), "trainer.auto_batch=true"]) == 0
    trained, expected = weights(made.retriever), weights(reference.retriever)
    assert all(torch.allclose(trained[name], expected[name], atol=1e-5) for name in expected)
    assert read_config(made.config).trainer.auto_batch


SLOW_RUN = """
import sys, time
from experiments import run
from lightning_modules import RetrieverReaderModule

step = RetrieverReaderModule.training_step
def slow_step(self, batch, batch_idx):
    time.sleep(0.3)
    return step(self, batch, batch_idx)
RetrieverReaderModule.training_step = slow_step
sys.exit(run.main(sys.argv[1:]))
"""
