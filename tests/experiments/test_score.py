"""The teacher factory: files that sentence-transformers, and the suite itself, train on."""

import json
import math

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss, MarginMSELoss

from datamodules.sealed_files import write_json
from experiments import run, score, scoring
from experiments.config import load_config
from experiments.runs import create_run
from tests.toy_files import as_overrides, toy_settings

NUM_PASSAGES = 4


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("score")
    return toy_settings(
        folder, training__num_passages=NUM_PASSAGES, evaluation__num_read=2, data__evaluation_batch_size=4
    )


def command(settings, out, *arguments, **changes):
    changed = {**settings, **{key.replace("__", "."): value for key, value in changes.items()}}
    return score.main(["--exp", "quickstart", "--out", str(out), *arguments, *as_overrides(changed)])


@pytest.fixture(scope="module")
def scored(settings, tmp_path_factory):
    path = tmp_path_factory.mktemp("scores") / "scores.jsonl"
    assert command(settings, path) == 0
    return path


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_question_has_its_candidates_with_the_teachers_distribution(scored):
    assert len(rows(scored)) == 12
    for row in rows(scored):
        texts = [row["positive"], *(row[f"negative_{i}"] for i in range(1, NUM_PASSAGES))]
        assert len(set(texts)) == len(row["label"]) == NUM_PASSAGES
        assert row["label"] == sorted(row["label"], reverse=True)
        assert sum(map(math.exp, row["label"])) == pytest.approx(1, abs=1e-4)
    assert not list(scored.parent.glob("*.scoring"))


@pytest.mark.parametrize("loss", [DistillKLDivLoss, MarginMSELoss])
def test_sentence_transformers_trains_on_the_file(settings, scored, loss):
    torch.manual_seed(0)
    model = SentenceTransformer(str(settings["retriever.name"]), device="cpu").train()
    columns = [key for key in rows(scored)[0] if key != "label"]
    labels = torch.tensor([row["label"] for row in rows(scored)])
    features = [model.preprocess([row[key] for row in rows(scored)]) for key in columns]
    criterion, losses = loss(model), []
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(6):
        optimizer.zero_grad()
        losses.append(criterion([dict(of) for of in features], labels))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_an_interrupted_command_goes_on_where_it_was(settings, tmp_path, monkeypatch, scored, capsys, caplog):
    """And the file is that of one that was not."""
    path, add, added = tmp_path / "scores.jsonl", scoring._KeptScores.add, []

    def interrupted(self, batch, scores):
        if len(added) == 2:
            raise KeyboardInterrupt
        added.append(len(batch))
        add(self, batch, scores)

    with monkeypatch.context() as patch:
        patch.setattr(scoring._KeptScores, "add", interrupted)
        assert command(settings, path) == 130
    kept = tmp_path / "scores.jsonl.scoring"
    assert len(rows(kept)) == 1 + sum(added)
    assert not path.exists()
    assert command(settings, path, objective__attention_temperature=0.1) == 2
    assert "holds scores of other settings" in capsys.readouterr().err
    assert command(settings, path, trainer__precision="bf16-mixed") == 2
    assert "holds scores of other settings" in capsys.readouterr().err
    whole = kept.read_bytes()
    kept.write_bytes(b"{" + whole)
    assert command(settings, path) == 2
    assert f"{kept} is damaged; delete it, or give another --out" in capsys.readouterr().err
    *first, last, _ = whole.split(b"\n")
    last = last.replace(b'"scores": [-', b'"scores": [-9')
    kept.write_bytes(b"\n".join([*first, last, b'{"id": "q9", "pass']))  # the end as a kill leaves it
    asked = []
    monkeypatch.setattr(scoring._KeptScores, "add", lambda *given: asked.append(given[1]) or add(*given))
    assert command(settings, path) == 0
    assert sum(map(len, asked)) == 12 - (sum(added) - 1)
    assert "2 lines are damaged, or were never whole" in caplog.text
    for row, expected in zip(rows(path), rows(scored), strict=True):
        assert row["label"] == pytest.approx(expected["label"], abs=1e-5)
    assert command(settings, path) == 2
    assert "is there already" in capsys.readouterr().err


def test_what_is_kept_names_the_run_that_the_latest_was(tmp_path, monkeypatch):
    """Another is the latest by the time that the command goes on, and its reader scores otherwise."""
    kept = []

    def keep(_self, _path, about):
        kept.append(about["init"]["reader_from"])
        raise KeyboardInterrupt

    monkeypatch.setattr(scoring._KeptScores, "__init__", keep)
    config = load_config("step2_vital", [f"runs={tmp_path}"])
    readers = []
    for seed in (0, 1):
        earlier = create_run(load_config("step1_vital", [f"runs={tmp_path}", f"seed={seed}"]))
        earlier.reader.mkdir()
        write_json(earlier.summary, {"status": "finished"})
        readers.append(str(earlier.path))
        with pytest.raises(KeyboardInterrupt):
            scoring.score_questions(config, "train", None, tmp_path / "scores.jsonl")
    assert kept == readers


def test_candidates_of_a_run_without_answers(settings, tmp_path, capsys):
    """Own questions, nobody's answers, somebody's ranking: the question's rows teach."""
    candidates = tmp_path / "bm25.run"
    candidates.write_text("q0 Q0 c0 1 9 t\nq0 Q0 r0 2 8 t\nq3 Q0 c1 1 7 t\nq3 Q0 c3 2 9.5 t\n")
    changes = {"reader__context": "independent", "objective__name": "signals", "data__train_answers": "false"}
    weights = {"objective__signals__answer": 0, "objective__signals__likelihood": 0}
    path = tmp_path / "out.run"
    arguments = ("--format", "trec", "--candidates", str(candidates))
    assert command(settings, path, *arguments, **changes, **weights) == 0
    found = [line.split() for line in path.read_text().splitlines()]
    assert [(line[0], line[3]) for line in found] == [("q0", "1"), ("q0", "2"), ("q3", "1"), ("q3", "2")]
    assert {line[2] for line in found if line[0] == "q3"} == {"c1", "c3"}
    assert "left out: 10 with no candidates" in capsys.readouterr().out
    assert command(settings, tmp_path / "x", "--format", "parquet") == 2
    assert "choose one of: sentence-transformers, tevatron" in capsys.readouterr().err


def test_the_suite_trains_on_the_file_without_a_reader(settings, scored, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.build.build_reader", lambda *_: pytest.fail("no reader is needed"))
    changes = {"objective.scores_from": scored, "runs": tmp_path, "training.retriever_lr": 1e-2}
    assert run.main(["--exp", "quickstart", *as_overrides({**settings, **changes})]) == 0
    (folder,) = tmp_path.glob("quickstart/*")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["trained"]
    assert summary["hr_at_1"]["after"] != summary["hr_at_1"]["before"]
    assert (folder / "retriever" / "modules.json").is_file()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training.train_reader": "true"}, "training.train_reader=true needs the reader"),
        ({"training.num_passages": 9}, "set that to 4, the most that one has"),
        ({"objective.scores_from": "nowhere.jsonl"}, "nowhere.jsonl does not exist"),
    ],
)
def test_what_scores_cannot_do_is_refused(settings, scored, tmp_path, capsys, changes, said):
    changed = {**settings, "objective.scores_from": scored, "runs": tmp_path / "runs", **changes}
    assert run.main(["--exp", "quickstart", *as_overrides(changed)]) == 2
    assert said in capsys.readouterr().err
