"""Choosing attention heads from the command line, and runs that take the file, on tiny models."""

import json
from pathlib import Path

import pytest

from experiments import run, select_heads
from experiments.build import build_reader
from experiments.config import read_config
from experiments.runs import RunFolder, snapshot_of_run
from lightning_modules.head_lists import HeadRows, read_head_list
from tests.tiny_models import tiny_llama, tiny_reader, tiny_tokenizer, toy_questions
from tests.toy_files import as_overrides, toy_settings


def many_questions(path: Path) -> Path:
    """The toy questions thirty times over, under other ids."""
    records = [
        {"id": f"{question.id}-{time}", "question": question.text, "answers": question.answers}
        for time in range(30)
        for question in toy_questions()
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("heads")
    changes = {"training__num_passages": 4, "data__evaluation_batch_size": 16}
    settings = toy_settings(folder, **changes)
    return {**settings, "data.train": many_questions(folder / "many.jsonl")}


@pytest.fixture(scope="module")
def made(settings) -> Path:
    path = Path(str(settings["runs"])).parent / "lists" / "heads.json"
    arguments = ["--exp", "quickstart", "--num-heads", "3", "--questions", "50", "--out", str(path)]
    assert select_heads.main([*arguments, *as_overrides(settings)]) == 0
    return path


def refused(capsys, command, settings, *arguments: str, **changes: object) -> str:
    """The one message of a command that is refused."""
    changed = {**settings, **{key.replace("__", "."): value for key, value in changes.items()}}
    assert command.main(["--exp", "quickstart", *arguments, *as_overrides(changed)]) == 2
    shown = capsys.readouterr()
    lines = shown.err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in shown.out + shown.err
    return lines[-1]


def test_the_file_ranks_all_heads(made):
    listed = read_head_list(made)
    assert (listed.method, listed.rows, listed.num_heads) == ("qrhead", HeadRows.QUESTION, 3)
    assert (len(listed.heads), listed.num_questions) == (8, 50)
    assert [row["num_heads"] for row in listed.held_out] == [1, 2, 3, 4, 8]
    assert listed.held_out[-1]["gain"] == 0


def test_the_usual_file_is_said_and_may_be_used(capsys, settings):
    arguments = ["--exp", "quickstart", "--method", "core", "--rows", "answer", "--num-heads", "2"]
    overrides = as_overrides({**settings, "reader.attention_heads": "qrhead:4"})
    assert select_heads.main([*arguments, "--questions", "50", *overrides]) == 0
    shown = capsys.readouterr().out
    path = Path(shown.split("reader.attention_heads=")[1].strip())
    assert path.parent == Path(str(settings["runs"])) / "heads" / "quickstart"
    listed = read_head_list(path)
    assert (listed.method, listed.rows) == ("core", HeadRows.ANSWER)
    assert f"the best 2 on all questions: {listed.best(2)}\n" in shown
    assert "50 questions, each judged by heads chosen on others" in shown


def test_a_run_keeps_the_heads_by_name(made, settings):
    """The reader is trained, so the list is not of the one that the run ends with."""
    changes = {"reader.attention_heads": made, "training.train_reader": "true", "trainer.max_steps": 1}
    changes |= {"stopping.enabled": "false", "evaluation.num_read": 2, "evaluation.num_read_test": 2}
    assert run.main(["--exp", "quickstart", *as_overrides({**settings, **changes})]) == 0
    [folder] = Path(str(settings["runs"])).glob("quickstart/*/")
    ended = RunFolder(folder)
    heads = str(read_head_list(made).best(3))
    assert read_config(ended.config).reader.attention_heads == heads
    assert f"# reader.attention_heads was given as {made}\n" in ended.config.read_text()
    snapshot = snapshot_of_run(ended.path)
    trained = build_reader(snapshot.config, snapshot.weights["reader"])
    assert snapshot.weights["reader"] == ended.reader
    assert str(trained.attention_heads) == heads


def test_a_file_of_another_reader_is_refused(capsys, made, settings, tmp_path):
    tokenizer = tiny_tokenizer()
    other = tiny_reader()
    other.model = tiny_llama(len(tokenizer), seed=1)
    other.save(tmp_path / "other")
    settings = {**settings, "runs": tmp_path / "runs"}
    message = refused(capsys, run, settings, reader__name=tmp_path / "other", reader__attention_heads=made)
    assert message.startswith(f"error: reader.attention_heads={made}: these are heads of '")
    assert message.endswith("and set reader.attention_heads to the file that it writes")
    assert not list((tmp_path / "runs").glob("quickstart/*"))


def test_a_reader_without_a_shipped_list_says_how_to_make_one(capsys, settings, tmp_path):
    settings = {**settings, "runs": tmp_path / "runs"}
    message = refused(capsys, run, settings, reader__attention_heads="qrhead:16")
    assert "python -m experiments.select_heads --exp NAME --method qrhead --num-heads 16" in message
    assert message.endswith("and set reader.attention_heads to the file that it writes")


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        (["--method", "best"], {}, "--method best is unknown; choose one of: qrhead, core"),
        (["--rows", "all"], {}, "HeadRows 'all' is unknown; choose one of: question, answer"),
        (["--questions", "49"], {}, "--questions must be at least 50"),
        (["--out", "heads.txt"], {}, "--out heads.txt must end in .json"),
        (["--num-heads", "9"], {}, "--num-heads 9: this reader has 2 layers of 4 heads"),
        (["--num-heads", "2"], {"data__max_train": 20}, "of 20 questions have passages with and without"),
        ([], {"reader__attention_heads": "nowhere.json"}, ""),
    ],
)
def test_mistakes_are_told(capsys, settings, tmp_path, arguments, changes, message):
    settings = {**settings, "runs": tmp_path / "runs"}
    if not message:
        shown = refused(capsys, run, settings, **changes)
        assert "reader.attention_heads: cannot read the list of heads nowhere.json" in shown
        return
    assert message in refused(capsys, select_heads, settings, *arguments, **changes)
    assert not list((tmp_path / "runs").glob("heads/**/*.json"))
