"""Every experiment builds and takes two steps offline, with tiny random models of the family it names."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments import run
from experiments.config import ExperimentConfig, experiment_names, load_config, num_examples
from experiments.show.report_runs import TABLES
from tests.tiny_models import save_tiny_models
from tests.toy_files import PAPERS_TEACHER, as_overrides, toy_settings, write_questions

# by setting and data set: peak learning rate, steps, warm-up steps
PAPER = OmegaConf.to_container(OmegaConf.load(TABLES))["hyperparameters"]
HYPERPARAMETERS = {
    f"{setting}_{data}": (told["lr"], told["steps"], told["warmup"])
    for setting, of_setting in PAPER.items()
    for data, told in of_setting.items()
}


def family_of(config: ExperimentConfig) -> str:
    if config.scale == "embedded":
        return "llama"
    return "t5" if config.reader.family == "fusion_in_decoder" else "falcon_rw"


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """Reader folders by the family that an experiment's reader belongs to."""
    folder = tmp_path_factory.mktemp("readers")
    return {family: save_tiny_models(folder / family, family)[0] for family in ("falcon_rw", "llama", "t5")}


@pytest.mark.parametrize("name", experiment_names())
def test_builds_and_steps(name, readers, tmp_path):
    config = load_config(name)
    settings = toy_settings(tmp_path, reader__name=readers[family_of(config)])
    # questions that name their passages, of which the last one is not asked: a solved example
    settings["data.train"] = write_questions(tmp_path / "titled.jsonl", range(12), with_titles=True)
    settings["data.test"] = write_questions(tmp_path / "fewer.jsonl", range(1, 11, 2))
    of_toys = {*PAPERS_TEACHER, "reader.num_examples"}
    settings = {key: value for key, value in settings.items() if key not in of_toys}
    if config.reader.attention_heads is not None:  # of another reader
        settings["reader.attention_heads"] = "null"
    if config.trainer.max_steps > 0:
        settings["trainer.max_steps"] = 2
    else:
        del settings["trainer.max_steps"]
    if config.init.reader_from is not None:
        settings["init.reader_from"] = "null"
    assert run.main(["--exp", name, *as_overrides(settings)]) == 0
    (summary,) = Path(settings["runs"]).glob(f"{name}/*/summary.json")
    found = json.loads(summary.read_text())
    assert found["status"] == "finished"
    assert 0 <= found["hr_at_5"]["before"] <= 1
    trains = config.trainer.max_steps > 0
    assert found["stopped"].startswith("all 2 steps done" if trains else "nothing is trained")
    assert (summary.parent / "retriever").is_dir() == (trains and config.training.train_retriever)
    assert (summary.parent / "reader").is_dir() == (trains and config.training.train_reader)


def test_step_1_starts_from_short_answers_and_step_2_reads_as_its_reader_was_trained():
    """A solved example in no other: data need titles for it, and Fusion-in-Decoder readers are shown none."""
    shown = {name: num_examples(load_config(name)) for name in experiment_names()}
    assert {name: num for name, num in shown.items() if num} == {"step1_vital": 1, "step2_vital": 1}


def test_every_experiment_of_the_paper_is_compared():
    trained = {name for name in experiment_names() if load_config(name).scale == "paper"}
    assert set(HYPERPARAMETERS) == {name for name in trained if not name.startswith("checkpoint_")}


@pytest.mark.parametrize("name", sorted(HYPERPARAMETERS))
def test_hyperparameters_are_the_papers(name):
    config = load_config(name)
    rate, steps, warmup = HYPERPARAMETERS[name]
    assert config.trainer.max_steps == steps
    if config.training.train_retriever:
        assert (config.training.retriever_lr, config.training.retriever_warmup_steps) == (rate, warmup)
    if config.training.train_reader:
        assert (config.training.reader_lr, config.training.reader_warmup_steps) == (rate, warmup)
    assert config.data.batch_size == 1
    assert config.training.num_passages == 5
    assert (config.reader.max_tokens_per_passage, config.reader.max_new_tokens) == (128, 32)
    reader = {
        "falcon_rw": "tiiuae/falcon-rw-1b@e4b9872bb803165eb22f0a867d4e6a64d34fce19",
        "t5": "google/t5-large-lm-adapt",
    }[family_of(config)]
    retriever = "facebook/contriever@2bd46a25019aeea091fd42d1f0fd4801675cf699"
    assert (config.reader.name, config.retriever.name) == (reader, retriever)


@pytest.mark.parametrize("setting", ["offshelf", "step1", "step2"])
def test_what_a_setting_trains(setting):
    trained = {"offshelf": (True, True), "step1": (False, True), "step2": (True, False)}[setting]
    for data in ("nq", "triviaqa", "vital"):
        training = load_config(f"{setting}_{data}").training
        assert (training.train_retriever, training.train_reader) == trained
    if setting == "step2":
        assert load_config("step2_nq").init.reader_from == "latest:step1_nq"
