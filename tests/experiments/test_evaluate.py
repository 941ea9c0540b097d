"""Retrievers side by side: a run's start and end, BM25, and models of sentence-transformers."""

import json
import shutil

import pytest

from experiments import evaluate
from experiments.show.ranking_console import _file_names
from tests.datamodules.test_judged_sets import write_set
from tests.toy_files import toy_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, and a copy of its retriever under no run's name."""
    return toy_run(tmp_path_factory.mktemp("evaluate")).path


def test_a_run_bm25_and_a_model_on_the_runs_test_and_a_collection(made, tmp_path, capsys):
    collection = write_set(tmp_path / "toyset")
    out = tmp_path / "out"
    names = [str(made), "bm25", str(made / "retriever")]
    assert evaluate.main([*names, "--on", "test", str(collection), "--out", str(out), "seed=1"]) == 0
    shown = capsys.readouterr().out
    assert f"{made.name}, trained, less {made.name}, start [95%]:" in shown
    results = json.loads((out / "results.json").read_text())["collections"]
    own, judged = results
    assert own["num_questions"] == 6
    assert own["judgements"].startswith("pooled")
    assert (judged["num_questions"], judged["num_passages"]) == (1, 2)
    start, trained, bm25, model = own["retrievers"]
    assert (bm25, model) == ("bm25", str(made / "retriever"))
    hit_rates = dict(zip(own["retrievers"], own["means"]["Hit Rate@5"], strict=True))
    summary = json.loads((made / "summary.json").read_text())
    for name, when in ((start, "before"), (trained, "after")):
        assert hit_rates[name]["mean"] == pytest.approx(summary["hr_at_5"][when])
    assert hit_rates["bm25"]["mean"] == pytest.approx(summary["bm25"]["bm25/hr_at_5"]["before"])
    assert judged["means"]["nDCG@10"][0]["low"] is None, "of one question there is no interval"
    assert own["less_the_first"]["nDCG@10"][0] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    means = own["means"]["nDCG@10"]
    assert means[3]["mean"] == pytest.approx(means[1]["mean"]), "the folder is what the run has trained"
    assert own["less_the_first"]["nDCG@10"][2]["mean"] == pytest.approx(means[2]["mean"] - means[0]["mean"])
    assert len(list(out.glob("*.run.trec"))) == 8
    assert (out / "toyset.qrels.trec").read_text() == "1 0 d1 2\n1 0 d2 0\n"


def test_equal_names_have_their_parent_folders(made, tmp_path, capsys):
    other = shutil.copytree(made, tmp_path / "other" / made.name)
    sets = []
    for parent in ("a", "b"):
        (tmp_path / parent).mkdir()
        sets.append(str(write_set(tmp_path / parent / "toyset")))
    out = tmp_path / "out"
    assert evaluate.main([str(made), str(other), "--on", *sets, "--out", str(out)]) == 0
    results = json.loads((out / "results.json").read_text())["collections"]
    assert [result["collection"] for result in results] == ["a/toyset", "b/toyset"]
    assert results[0]["retrievers"] == [
        f"{parent}/{made.name}, {when}" for parent in ("quickstart", "other") for when in ("start", "trained")
    ]
    assert f"other/{made.name}, start, less quickstart/{made.name}, start" in capsys.readouterr().out
    assert len(list(out.glob("*.run.trec"))) == 8
    assert (out / f"b-toyset.other-{made.name}-start.run.trec").is_file()
    assert {path.name for path in out.glob("*.qrels.trec")} == {"a-toyset.qrels.trec", "b-toyset.qrels.trec"}


def test_names_that_make_one_file_name_are_numbered():
    assert _file_names(["a/b", "a b", "c", "a-b"]) == ["a-b", "a-b-2", "c", "a-b-3"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bm25"], "name a run, or the experiment whose test split it is"),
        (["--on", "test", "--exp", "quickstart"], "name a retriever"),
        (["bm25", "--on", "nowhere"], "no such folder; give one that holds corpus.jsonl"),
    ],
)
def test_what_cannot_be_compared_is_refused(capsys, arguments, said):
    if arguments[0] == "--on":
        arguments = ["seed=1", *arguments]
    assert evaluate.main(arguments) == 2
    assert said in capsys.readouterr().err
