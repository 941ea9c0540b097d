"""What a bonus for length does to a retriever, and how a run's gain is told from it."""

import numpy as np
import pytest

from datamodules.batches import Passage, Question
from experiments import control_length, run
from experiments.length_control import ScoredQuestions
from tests.toy_files import as_overrides, toy_settings


def scored(scores, lengths=(1, 4, 16), answers=("b", "c")):
    passages = [
        Passage(str(i), "", " ".join([letter] * n))
        for i, (letter, n) in enumerate(zip("abc", lengths, strict=True))
    ]
    questions = [Question(id=str(i), text="q", answers=(answer,)) for i, answer in enumerate(answers)]
    return ScoredQuestions(np.array(scores, dtype=float), questions, passages, "tokens")


def test_a_bonus_moves_long_passages_up():
    questions = scored([[1.0, 0.9, 0.0], [1.0, 0.9, 0.0]])
    plain, small, large = (questions.with_bonus(size, 1) for size in (0.0, 0.1, 1.0))
    assert (plain.hit_rate, small.hit_rate, large.hit_rate) == (0.0, 0.5, 0.5)
    assert [bonus.hits.tolist() for bonus in (small, large)] == [[1.0, 0.0], [0.0, 1.0]]
    assert (plain.words, small.words, large.words) == (1, 4, 16)
    assert questions.with_bonus(0.0, 2).hits.tolist() == [1.0, 0.0]
    assert questions.with_bonus(0.0, 2).words == 2.5


def test_bonuses_are_in_units_of_the_scores():
    scores = np.array([[1.0, 0.9, 0.0], [0.2, 0.9, 0.1]])
    sizes = scored(scores).sizes()
    assert 0.0 in sizes
    assert min(sizes) < 0 < max(sizes)
    assert scored(10 * scores).sizes() == pytest.approx([10 * size for size in sizes])
    assert scored(scores, lengths=(3, 3, 3)).sizes() == [0.0]


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("control")
    settings = as_overrides(toy_settings(folder, init__reader_from="null", evaluation__monitor="null"))
    assert run.main(["--exp", "step2_vital", *settings]) == 0
    (path,) = (folder / "runs" / "step2_vital").iterdir()
    return path


def test_what_is_printed_fits_together(trained_run, capsys):
    assert control_length.main([str(trained_run)]) == 0
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if line.strip().startswith(("start", "trained"))]
    assert [row[0] for row in rows] == ["start", "start", "trained", "trained"]
    assert [float(row[1]) for row in rows][::2] == [0.0, 0.0]
    rates = [float(row[2]) for row in rows]
    changes = {}
    for line in printed.splitlines():
        name, colon, value = line.partition(": ")
        if colon:
            changes[name] = float(value.split()[0])
    assert changes["the run gained"] == pytest.approx(rates[2] - rates[0], abs=2e-3)
    assert changes["a bonus for length alone would have gained"] == pytest.approx(
        rates[1] - rates[0], abs=2e-3
    )
    assert changes["gained beyond length"] == pytest.approx(rates[3] - rates[1], abs=2e-3)


def test_the_rates_are_those_of_the_run(trained_run, capsys):
    import json

    summary = json.loads((trained_run / "summary.json").read_text())["hr_at_5"]
    assert control_length.main([str(trained_run)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    rates = [float(row[2]) for row in rows if row[:1] in (["start"], ["trained"])]
    assert rates[0] == pytest.approx(summary["before"], abs=1e-3)
    assert rates[2] == pytest.approx(summary["after"], abs=1e-3)


def test_mistakes_are_one_line(tmp_path, capsys):
    assert control_length.main([str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "not a run folder" in line
    settings = as_overrides(toy_settings(tmp_path))
    assert run.main(["--exp", "checkpoint_vital", "evaluation.retrieve_only=true", *settings]) == 0
    (path,) = (tmp_path / "runs" / "checkpoint_vital").iterdir()
    capsys.readouterr()
    assert control_length.main([str(path)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "has no trained retriever" in line
