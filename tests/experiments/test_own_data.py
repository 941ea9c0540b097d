"""`own_data` on toy files in BEIR's format: what a newcomer does, with nothing else set."""

import json
import logging
import math
import re
import runpy
from pathlib import Path

import pytest

from datamodules.answer_matching import has_answer
from datamodules.passage_files import read_passages
from datamodules.questions import read_questions
from datamodules.sealed_files import read_with_checksum
from experiments import checks, evaluate, report, run
from experiments.checks import doubts_about
from experiments.command_line import USER_ERROR
from experiments.config import load_config, read_config
from tests.tiny_models import save_tiny_models, toy_passages, toy_questions
from tests.toy_files import as_overrides, toy_settings

LIMITS = ("runs", "data.noun_model", "reader.name", "retriever.name", "trainer.accelerator")


def write_beir(folder: Path, with_answers: bool = True) -> dict[str, Path]:
    """Queries, corpus and judgements; train has all but the last two queries, which are of test."""
    (folder / "qrels").mkdir(parents=True)
    queries = [
        {"_id": question.id, "text": question.text} | ({"answers": question.answers} if with_answers else {})
        for question in toy_questions()
    ]
    corpus = [{"_id": p.id, "title": p.title, "text": p.text} for p in toy_passages()]
    for name, records in (("queries", queries), ("corpus", corpus)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for name, of_split in (("train", range(10)), ("test", range(10, 12))):
        lines = [f"q{i}\tc{i}\t1\n" for i in of_split]
        (folder / "qrels" / f"{name}.tsv").write_text("".join(["query-id\tcorpus-id\tscore\n", *lines]))
    return {"data.train": folder / "qrels" / "train.tsv", "data.passages": folder / "corpus.jsonl"}


def settings_of(folder: Path, **files: object) -> list[str]:
    toy = toy_settings(folder)
    steps = {"trainer.max_steps": 2, "trainer.validate_every_steps": 1, "trainer.progress_bar": "false"}
    return as_overrides({**{key: toy[key] for key in LIMITS}, **steps, **files})


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The folder of a run's runs."""
    folder = tmp_path_factory.mktemp("own")
    files = write_beir(folder / "capitals")
    assert run.main(["--exp", "own_data", *settings_of(folder, **files)]) == 0
    return folder / "runs"


def test_it_needs_questions_passages_and_models_alone(made):
    [folder] = made.glob("own_data/*")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "finished"
    asked = [json.loads(line)["id"] for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(asked) == 2, "a fifth of ten"
    assert set(asked) < {f"q{i}" for i in range(10)}, "ids are BEIR's"


def test_the_derived_temperature_is_kept(made):
    [folder] = made.glob("own_data/*")
    text = read_with_checksum(folder / "config.yaml")
    assert text.startswith("# objective.retrieval_temperature was null")
    assert read_config(folder / "config.yaml").objective.retrieval_temperature > 0


def test_the_report_names_the_file(made, tmp_path):
    assert report.main([str(made), "--out", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    named = "own_data<br>data.passages=capitals/corpus.jsonl<br>reader reader<br>retriever retriever"
    assert f"| capitals/qrels/train.tsv (held out) | {named}" in text
    assert "Vital QA" not in text


def test_the_comparison_goes_by_the_judgements_as_the_run_did(made, tmp_path):
    [folder] = made.glob("own_data/*")
    assert evaluate.main([str(folder), "bm25", "--out", str(tmp_path)]) == 0
    [own] = json.loads((tmp_path / "results.json").read_text())["collections"]
    assert own["judgements"] == "of the collection"
    hit_rates = [found["mean"] for found in own["means"]["Hit Rate@5"]]
    summary = json.loads((folder / "summary.json").read_text())
    assert hit_rates[0] == pytest.approx(summary["hr_at_5"]["before"])
    assert hit_rates[-1] == pytest.approx(summary["bm25"]["bm25/hr_at_5"]["before"])


def test_without_answers_the_judgements_alone_decide(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    files = write_beir(tmp_path / "capitals", with_answers=False)
    settings = settings_of(tmp_path, **files)
    question_alone = ["objective.signals.answer=0", "objective.signals.likelihood=0"]
    assert run.main(["--exp", "own_data", *settings, *question_alone]) == 0
    assert "no question has an answer, so the reader reads none of them" in caplog.text
    [folder] = (tmp_path / "runs").glob("own_data/*")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["hr_at_5"]["after"] is not None
    assert not summary["indicators"]


def test_a_teacher_that_needs_answers_is_refused_where_there_are_none(tmp_path, capsys):
    files = write_beir(tmp_path / "capitals", with_answers=False)
    assert run.main(["--exp", "own_data", *settings_of(tmp_path, **files)]) == USER_ERROR
    error = capsys.readouterr().err
    assert "data.train: 6 of 6 questions have no answer" in error
    assert (
        "set objective.name=signals with objective.signals.answer=0 objective.signals.likelihood=0" in error
    )
    assert not list((tmp_path / "runs").glob("own_data/*"))


def test_judgements_of_other_passages_are_refused(tmp_path, capsys):
    files = write_beir(tmp_path / "capitals")
    others = "query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\tx{i}\t1\n" for i in range(10))
    files["data.train"].write_text(others)
    assert run.main(["--exp", "own_data", *settings_of(tmp_path, **files)]) == USER_ERROR
    error = capsys.readouterr().err
    assert "passages judged relevant is in data.passages, whose ids are such as 'c0', not 'x" in error


def test_questions_beside_the_embedded_passages_are_doubted():
    [doubt] = doubts_about(load_config("own_data", ["data.train=my.jsonl"]))
    assert "data.passages is the embedded Vital QA (the default) beside data.train=my.jsonl" in doubt
    assert not doubts_about(load_config("own_data", ["data.train=my.jsonl", "data.passages=p.jsonl"]))
    assert not doubts_about(load_config("own_data"))


def test_more_processes_than_cores_are_doubted(monkeypatch):
    monkeypatch.setattr(checks.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(checks, "hardware", lambda config: {"accelerator": "cpu"})
    [doubt] = checks.doubts_about(load_config("own_data", ["trainer.devices=3"]))
    assert "starts 3 processes, and this machine has 2 cores" in doubt
    assert not checks.doubts_about(load_config("own_data", ["trainer.devices=2"]))


DOCS = Path(__file__).parents[2] / "docs"


def programs_of_the_docs() -> list[str]:
    page = (DOCS / "own_data.md").read_text()
    return re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)


@pytest.mark.embedded
def test_the_files_of_the_docs_belong_together(tmp_path, monkeypatch):
    (tmp_path / "make.py").write_text(programs_of_the_docs()[0])
    monkeypatch.chdir(tmp_path)
    runpy.run_path("make.py")
    questions = read_questions("my/qrels/train.tsv")
    passages = {passage.id: passage for passage in read_passages("my/corpus.jsonl")}
    assert (len(questions), len(passages)) == (30, 40)
    for question in questions:
        [gold] = question.positives
        assert has_answer(passages[gold].text, question.answers)


def test_the_docs_find_passages_with_the_retriever_of_a_run(made, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").symlink_to(made)
    (tmp_path / "my").symlink_to(made.parent / "capitals")
    (tmp_path / "program.py").write_text(programs_of_the_docs()[1])
    monkeypatch.chdir(tmp_path)
    runpy.run_path("program.py")
    found = dict(line.split(" ", 1) for line in capsys.readouterr().out.splitlines())
    assert len(found) == 3
    assert found.items() <= {passage.id: passage.title for passage in toy_passages()}.items()


@pytest.mark.embedded
@pytest.mark.filterwarnings("ignore")
def test_the_notebook_of_the_docs_runs(tmp_path, monkeypatch, capsys):
    """Its cells in order, with tiny models given after its cell of parameters, as papermill gives them."""
    save_tiny_models(tmp_path)
    cells = json.loads((DOCS / "own_data.ipynb").read_text())["cells"]
    programs = {cell["id"]: "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"}
    assert programs["files"] == programs_of_the_docs()[0].rstrip()
    programs["parameters"] += (
        '\nreader_name, retriever_name, num_layers = "reader", "retriever", None'
        "\nmax_steps, validate_every_steps = 2, 1"
    )
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for name, program in programs.items():
        exec(compile(program, f"cell {name}", "exec"), names)
    by_signals, by_both = names["by_signals"], names["by_both"]
    assert by_both.module.objective.name == "likelihood_and_words"
    for name in ("hr_at_5", "recall_at_3"):
        assert by_both.before[name] == by_signals.before[name], "each starts anew"
    for measured in (by_both.before, by_both.after, by_signals.after):
        assert 0 <= measured["recall_at_3"] <= 1
        assert not math.isnan(measured["indicator2/attention_p90"])
    assert re.search(r"^recall_at_3( +\d\.\d{3}){3}$", capsys.readouterr().out, flags=re.MULTILINE)
    assert (tmp_path / "trained" / "model.safetensors").is_file()


@pytest.mark.embedded
@pytest.mark.filterwarnings("ignore")
def test_the_program_of_the_docs_runs(tmp_path, monkeypatch, capsys):
    """As it stands, on toy files in place of the reader's own."""
    write_beir(tmp_path / "my")
    (tmp_path / "program.py").write_text(programs_of_the_docs()[-1])
    monkeypatch.chdir(tmp_path)
    made = runpy.run_path("program.py")["made"]
    assert set(made.before) == set(made.after)
    assert 0 <= made.after["reciprocal_rank"] <= 1
    assert re.search(r"^hr_at_5: \d\.\d{3} -> \d", capsys.readouterr().out, flags=re.MULTILINE)
    assert (tmp_path / "trained" / "model.safetensors").is_file()
