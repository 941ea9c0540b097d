"""Templates and solved examples, from the configuration to what a reader is shown."""

import json
import logging
from pathlib import Path

import pytest

from experiments import run
from experiments.build import build
from experiments.checks import check_config
from experiments.config import ConfigError, load_config, num_examples, read_config
from experiments.runs import create_run
from lightning_modules.read_once import ReadOnce
from tests.tiny_models import save_tiny_models, toy_questions
from tests.toy_files import as_overrides, toy_settings, write_questions

WEIGHTS = {"reader": None, "retriever": None}


@pytest.fixture
def settings(tmp_path):
    """Twelve training questions with titles, of which others ask the first eight."""
    return toy_settings(
        tmp_path,
        data__train=write_questions(tmp_path / "titled.jsonl", range(12), with_titles=True),
        data__validation=write_questions(tmp_path / "v.jsonl", range(0, 8, 2)),
        data__test=write_questions(tmp_path / "t.jsonl", range(1, 8, 2)),
        reader__num_examples=2,
    )


def configured(settings, *overrides):
    return load_config("quickstart", [*as_overrides(settings), *overrides])


def refused(capsys, settings, *overrides) -> str:
    assert run.main(["--exp", "quickstart", *as_overrides(settings), *overrides]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    return shown


def finished(settings, tmp_path, *overrides) -> Path:
    assert run.main(["--exp", "quickstart", *as_overrides(settings), *overrides]) == 0
    [folder] = (tmp_path / "runs" / "quickstart").iterdir()
    return folder


def test_examples_are_training_questions_that_are_asked_no_more(settings, tmp_path):
    datamodule, module = build(configured(settings), tmp_path, WEIGHTS)
    examples = module.reader.prompts.examples
    solved = [example.question.id for example in examples]
    assert len(solved) == 2
    assert set(solved) < {"q8", "q9", "q10", "q11"}
    assert [question.id for question in datamodule.train] == [
        f"q{i}" for i in range(12) if f"q{i}" not in solved
    ]
    for example in examples:
        assert example.passage.title == toy_questions()[int(example.question.id[1:])].title
        assert example.answer in example.passage.text
    again, same = build(configured(settings), tmp_path, WEIGHTS)
    assert same.reader.prompts.examples == examples
    assert again.train == datamodule.train


def test_no_examples_are_the_default_and_leave_everything(settings, tmp_path):
    datamodule, module = build(configured(settings, "reader.num_examples=0"), tmp_path, WEIGHTS)
    assert num_examples(load_config("quickstart")) == 0
    assert module.reader.prompts.examples == ()
    assert len(datamodule.train) == 12


def test_a_slice_is_the_same_with_and_without(settings, tmp_path):
    sizes = "data.max_passages=16", "data.max_train=null"
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    _, shown = build(configured(settings, *sizes), tmp_path / "a", WEIGHTS)
    _, bare = build(configured(settings, *sizes, "reader.num_examples=0"), tmp_path / "b", WEIGHTS)
    assert shown.knowledge_base.fingerprint == bare.knowledge_base.fingerprint


def test_a_run_trains_both_models_with_examples(settings, tmp_path):
    folder = finished(settings, tmp_path, "training.train_reader=true", "trainer.max_steps=2")
    found = json.loads((folder / "summary.json").read_text())
    assert found["status"] == "finished"
    assert (folder / "reader").is_dir()


def test_a_closed_book_run_shows_them_too(settings, tmp_path):
    folder = finished(settings, tmp_path, "evaluation.closed_book=true", "trainer.max_steps=0")
    assert set(json.loads((folder / "summary.json").read_text())["em"]) == {"before", "after"}


def test_what_only_retrieves_needs_none(settings, tmp_path):
    untitled = {**settings, "data.train": write_questions(tmp_path / "u.jsonl", range(12))}
    finished(untitled, tmp_path, "evaluation.retrieve_only=true", "trainer.max_steps=0")


def test_too_few_are_refused_with_the_setting(settings, tmp_path, capsys):
    error = refused(capsys, settings, "reader.num_examples=5")
    assert "error: reader.num_examples=5, but 4 training questions can be solved examples" in error
    assert "set reader.num_examples to at most that many" in error
    untitled = {**settings, "data.train": write_questions(tmp_path / "u.jsonl", range(12))}
    assert "reader.num_examples=2, but 0 training" in refused(capsys, untitled)
    assert "must be between 0 and 16" in refused(capsys, settings, "reader.num_examples=17")


def test_a_fusion_in_decoder_reader_shows_none(settings, tmp_path, capsys):
    with pytest.raises(ConfigError, match=r"reader.num_examples=1: .* set reader.num_examples=0"):
        check_config(load_config("atlas_large_nq", ["reader.num_examples=1"]))
    reader, _ = save_tiny_models(tmp_path / "t5", "t5")
    error = refused(capsys, {**settings, "reader.name": reader})
    assert "error: reader.num_examples can be shown to decoder-only readers alone" in error


def test_few_shot_shows_three_unless_it_is_told_otherwise(settings, tmp_path):
    few_shot = "reader.template=few_shot", "reader.num_examples=null"
    _, module = build(configured(settings, *few_shot), tmp_path, WEIGHTS)
    assert module.reader.num_examples == 3
    assert num_examples(configured(settings, *few_shot, "reader.num_examples=0")) == 0


TOGETHER = "reader.context=concatenated"


@pytest.mark.parametrize(
    ("overrides", "is_kept", "said"),
    [
        ([], True, []),
        ([TOGETHER], False, ["the reader sees all passages of a question together"]),
        (["evaluation.token_embeddings=contextual"], False, ["evaluation.token_embeddings=contextual looks"]),
        ([TOGETHER, "reader.read_once=false"], False, []),
        ([TOGETHER, "training.train_reader=true"], False, []),
    ],
)
def test_why_nothing_of_a_frozen_reader_is_kept_is_said(settings, tmp_path, caplog, overrides, is_kept, said):
    caplog.set_level(logging.INFO, logger="experiments.build")
    _, module = build(configured(settings, *overrides), tmp_path, WEIGHTS)
    assert isinstance(module.read_once, ReadOnce) == is_kept
    lines = [message for message in caplog.messages if "reader.read_once=true" in message]
    assert len(lines) == len(said)
    assert all(reason in line for reason, line in zip(said, lines, strict=True))


@pytest.fixture
def template(tmp_path) -> Path:
    path = tmp_path / "mine.txt"
    path.write_text("{passage}\n\nQ: {question}\nA: {answer}\n")
    return path


def test_a_run_keeps_its_template_and_goes_on_with_that(settings, template):
    made = create_run(configured(settings, f"reader.template={template}"))
    text = template.read_text().rstrip("\n")
    template.unlink()
    moved = made.path.rename(made.path.with_name("moved"))
    kept = read_config(moved / "config.yaml")
    assert kept.reader.template == text
    _, module = build(kept, moved, WEIGHTS)
    assert module.reader.prompts.template.alone == text


@pytest.mark.parametrize("is_t5", [True, False])
def test_signals_that_a_reader_cannot_give_are_refused(settings, tmp_path, is_t5, capsys):
    overrides = ["reader.context=concatenated"]
    if is_t5:
        overrides = [f"reader.name={save_tiny_models(tmp_path / 't5', 't5')[0]}", "reader.num_examples=null"]
    error = refused(capsys, settings, "objective.name=signals", *overrides)
    assert error.startswith("error: objective: signals come from one pass over each passage alone")
    assert "use a decoder-only reader with reader.context independent" in error
    assert not list(tmp_path.glob("runs/quickstart/*"))


def test_templates_that_cannot_be_are_refused_before_anything_is_written(
    settings, tmp_path, template, capsys
):
    long = tmp_path / "long.txt"
    long.write_text("Be brief. " * 99 + template.read_text())
    broken = tmp_path / "broken.txt"
    broken.write_text("{passge}\n{question} {answer}")
    t5, _ = save_tiny_models(tmp_path / "t5", "t5")
    of_t5 = [f"reader.name={t5}", "reader.num_examples=null"]
    for overrides, message in (
        (["reader.template=none.txt"], "reader.template: 'none.txt' is no template's name, and /"),
        ([f"reader.template={broken}"], f"reader.template: {broken}, line 1: unknown field {{passge}}"),
        (["reader.template=chat"], "reader.template=chat is a chat, and the tokenizer of this reader has no"),
        (["reader.template=chat"], "set reader.template=plain or reader.template=few_shot, or reader.name"),
        (["reader.template=chat", *of_t5], "reader.template=chat is a chat, and a Fusion-in-Decoder reader"),
        (["reader.template=few_shot", *of_t5], "reader.num_examples can be shown to decoder-only readers"),
        ([f"reader.template={long}"], "reader.max_tokens_per_passage=128 leaves a passage no room beside"),
    ):
        error = refused(capsys, settings, *overrides)
        assert message in error
        assert error.count("error: ") == 1
    assert not list(tmp_path.glob("runs/quickstart/*"))
