"""The model card of a run, and its way to a hub of the test's own."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from experiments import control_length, publish
from experiments.config import load_config, read_config, save_config
from experiments.runs import RunFolder
from experiments.show import model_card
from experiments.show.decisions import describe_kept
from experiments.show.model_card import Result, _metadata
from lightning_modules.metrics.estimates import Estimate
from tests.model_hub import serve_models
from tests.toy_files import toy_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return toy_run(tmp_path_factory.mktemp("publish"))


def test_the_card_says_what_the_run_did_and_what_nobody_looked_at(made):
    card = ModelCard.load(made.retriever / "README.md")
    summary = json.loads(made.summary.read_text())
    assert card.data.library_name == "sentence-transformers"
    assert "retrieval" in card.data.tags
    measured = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert measured == {
        f"Hit Rate@{k}": pytest.approx(summary[f"hr_at_{k}"]["after"], abs=1e-4) for k in (1, 5, 20)
    }
    config = read_config(made.config)
    for said in (
        f"started from: {config.retriever.name}\n",
        f"reader: {config.reader.name}, frozen\n",
        f"questions: {config.data.train}; passages: {config.data.passages}\n",
        "seed: 0\n",
        "command: `python -m experiments.run",
        f"| Hit Rate@5 | {summary['hr_at_5']['before']:.3f} [",
        "objective: adist, 5 candidates a question",
        describe_kept(summary),
        "not looked at (`experiments.control_length`)",
        "pre-flight check of the teacher: none",
        "6 held-out test questions",
        "## Not tested",
    ):
        assert said in card.text, said


def test_the_card_of_a_start_that_nothing_beat_says_so(made):
    summary = made.read_summary()
    chosen_by = {"monitor": "validation/hr_at_5", "start": 0.5, "kept": 0.5, "last": 0.25}
    of_start = model_card.make_model_card(made, {**summary, "best_step": None, "chosen_by": chosen_by})
    said = "no checkpoint beat the start; starting weights kept; last validation/hr_at_5 0.250 (-0.250)"
    assert f"ended because: {summary['stopped']}; {said}" in of_start
    assert "This is the retriever that the run started from, with none of its training" in of_start
    assert "Trained without relevance labels" not in of_start
    last = model_card.make_model_card(made, {**summary, "best_step": None, "chosen_by": None})
    assert "; no checkpoint was chosen by a validation" in last
    assert "Trained without relevance labels" in last
    assert "None" not in of_start + last


def test_the_card_says_which_signals_taught(tmp_path):
    config = load_config("quickstart")
    said = list(model_card._training(config, RunFolder(tmp_path), {"stopped": "", "best_step": 8}))
    assert "objective: signals question + likelihood, 3 candidates a question" in said
    assert "attention heads: qrhead:16" in said
    assert "further negatives: the candidates of the batch's other questions" in said
    alone = load_config("quickstart", ["objective.name=uniform", "objective.in_batch=false"])
    said = list(model_card._training(alone, RunFolder(tmp_path), {"stopped": "", "best_step": 8}))
    assert "objective: uniform, 3 candidates a question" in said
    assert not any(line.startswith(("attention heads", "further negatives")) for line in said)


@pytest.mark.parametrize(
    ("experiment", "base_model", "datasets"),
    [
        ("quickstart", "sentence-transformers/all-MiniLM-L6-v2", None),
        ("step2_nq", "facebook/contriever", ["google-research-datasets/nq_open"]),
    ],
)
def test_the_hub_is_told_what_the_retriever_comes_of(experiment, base_model, datasets):
    config = load_config(experiment)
    measured = Estimate(mean=0.5, low=0.25, high=0.75, n=4)
    results = [Result("Hit Rate@5", measured, measured, measured)]
    card = ModelCard(f"---\n{_metadata(config, RunFolder(Path('20260101-seed0')), results)}\n---\n")
    assert card.data.base_model == base_model
    assert card.data.get("datasets") == datasets
    [result] = card.data.eval_results
    assert (result.metric_value, result.dataset_split) == (0.5, "test")


def test_what_is_damaged_is_not_published(made, capsys, caplog):
    capsys.readouterr()
    for file in (made.predictions, next(made.retriever.glob("*.safetensors"))):
        whole = file.read_bytes()
        file.write_bytes(whole[:-9] + b"x" + whole[-8:])
        assert publish.main([str(made.path), "--dry-run"]) == 2
        assert f"error: {file} is damaged" in capsys.readouterr().err
        file.write_bytes(whole)
    whole = made.environment.read_bytes()
    made.environment.write_bytes(whole[:-9])
    assert publish.main([str(made.path), "--dry-run"]) == 0
    assert "environment.json is damaged: no JSON" in caplog.text
    assert "suite:" not in capsys.readouterr().out, "the card does without"
    made.environment.write_bytes(whole)


def test_what_is_found_later_is_in_the_card_that_is_published(made, tmp_path, monkeypatch, capsys):
    assert control_length.main([str(made.path), "--k", "5"]) == 0
    config = read_config(made.config)
    derived = replace(config.objective, retrieval_temperature=0.05)
    save_config(replace(config, objective=derived), made.config, "derived at its start")
    probe = {
        "config": asdict(read_config(made.asked)),
        "result": {"verdict": {"advice": "no-go", "reasons": ["its AUC is 0.5"]}},
    }
    folder = made.path.parents[1] / "probes" / "quickstart" / "20260101-000000"
    folder.mkdir(parents=True)
    (folder / "probe.json").write_text(json.dumps(probe))
    assert publish.main([str(made.path), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "a bonus for length alone explains" in shown
    assert "pre-flight check of the teacher: no-go (its AUC is 0.5)" in shown
    assert "modules.json" in shown
    assert "nothing was sent" in shown
    with serve_models(str(tmp_path / "cache"), monkeypatch) as hub:
        assert publish.main([str(made.path), "--repo", "me/retriever"]) == 0
        assert "/me/retriever" in capsys.readouterr().out
        sent = hub.received["me/retriever"]
        files = {path for path in made.retriever.rglob("*") if path.is_file()}
        assert sent == {str(path.relative_to(made.retriever)): path.read_bytes() for path in files}
        hub.takes = False
        assert publish.main([str(made.path), "--repo", "me/retriever"]) == 2
        assert "log in with `hf auth login`" in capsys.readouterr().err


def test_what_cannot_be_published_is_refused(made, tmp_path, capsys):
    for arguments, said in (
        ([str(tmp_path)], "not a run folder"),
        ([str(made.path)], "name the repository with --repo OWNER/NAME"),
    ):
        assert publish.main(arguments) == 2
        assert said in capsys.readouterr().err
