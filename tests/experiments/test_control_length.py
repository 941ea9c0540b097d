"""The control for passage length as a user asks for it, and what it prints."""

import json

import numpy as np
import pytest

from experiments import control_length, run
from experiments.show.console import print_control
from lightning_modules.encoding import encode_passages
from lightning_modules.length_control import Bonus, Controlled, LengthControl
from lightning_modules.metrics.estimates import Estimate
from tests.tiny_models import toy_passages
from tests.toy_files import as_overrides, toy_settings


def control(start_words, beyond_low) -> LengthControl:
    hits = np.array([0.0, 1.0])
    start = Controlled(Bonus(0.0, hits, start_words, 0.125), Bonus(0.2, hits, 90.0, 0.25))
    trained = Controlled(Bonus(0.0, hits, 91.0, None), Bonus(0.1, hits, 92.0, 0.375))
    gain = Estimate(0.1, 0.05, 0.15, 2)
    return LengthControl(start, trained, gain, gain, Estimate(0.02, beyond_low, 0.04, 2), corpus_words=82.0)


@pytest.mark.parametrize(
    ("start_words", "explained"),
    [
        (56.0, "explained by removing a preference for short passages"),
        (88.0, "explained by a preference for long passages"),
    ],
)
@pytest.mark.parametrize("beyond_low", [-0.01, 0.01])
def test_what_length_explains_is_said_of_where_the_start_was(capsys, start_words, explained, beyond_low):
    print_control(control(start_words, beyond_low), 5)
    shown = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert f"start 0.000 0.500 {start_words:.0f} 0.125" in lines
    assert "start 0.200 0.500 90 0.250" in lines
    assert "trained 0.000 0.500 91 -" in lines
    assert "all passages 82" in lines
    sentence = (
        f"retrieved passage length in words: {start_words:.0f} at the start, 82 over all passages; what a"
    )
    shown_words = " ".join(lines)
    assert f"{sentence} bonus for length gains is {explained}" in shown_words
    doubt = f"the gain beyond length is not significant: the whole gain may be {explained}"
    assert (doubt in shown_words) == (beyond_low < 0)
    assert shown.count("explained by") == (2 if beyond_low < 0 else 1)


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("control")
    settings = as_overrides(toy_settings(folder, init__reader_from="null", evaluation__monitor="null"))
    assert run.main(["--exp", "step2_vital", *settings]) == 0
    (path,) = (folder / "runs" / "step2_vital").iterdir()
    return path


def test_passages_are_not_encoded_again(trained_run, capsys, monkeypatch, caplog):
    """What the run kept gives what encoding gives, and where it is damaged they are encoded."""
    path = str(trained_run)
    encoded = []

    def encode(retriever, passages):
        encoded.append(len(passages))
        return encode_passages(retriever, passages)

    monkeypatch.setattr("lightning_modules.encoding.encode_passages", encode)
    assert control_length.main([path]) == 0
    with_kept = capsys.readouterr().out
    assert encoded == []
    for index in (trained_run / "index").glob("*/index-*.faiss"):
        index.write_bytes(index.read_bytes()[:-1])
    assert control_length.main([path]) == 0
    assert capsys.readouterr().out == with_kept
    assert encoded == [len(toy_passages())]
    assert "encoding all passages again" in caplog.text


def test_what_is_printed_fits_together(trained_run, capsys):
    assert control_length.main([str(trained_run)]) == 0
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if line.strip().startswith(("start ", "trained "))]
    assert [row[0] for row in rows] == ["start", "start", "trained", "trained"]
    assert [float(row[1]) for row in rows][::2] == [0.0, 0.0]
    assert [row[4] for row in rows] == ["-"] * 4  # the toy questions name no passage
    words = [len(passage.text.split()) for passage in toy_passages()]
    assert f"{np.mean(words):.0f} over all passages; what a bonus" in " ".join(printed.split())
    rates = [float(row[2]) for row in rows]
    changes = {}
    for line in printed.splitlines():
        name, colon, value = line.partition(": ")
        if colon and "gained" in name:
            changes[name] = float(value.split()[0])
    assert changes["the run gained in Hit Rate@5"] == pytest.approx(rates[2] - rates[0], abs=2e-3)
    assert changes["a bonus for length alone would have gained"] == pytest.approx(
        rates[1] - rates[0], abs=2e-3
    )
    assert changes["gained beyond length"] == pytest.approx(rates[3] - rates[1], abs=2e-3)


def test_the_rates_are_those_of_the_run(trained_run, capsys):
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


def test_under_other_settings_nothing_is_kept_as_the_runs_own(trained_run, tmp_path, capsys):
    kept, path = trained_run / "analysis" / "length_control.json", str(trained_run)
    assert control_length.main([path, "--k", "5"]) == 0
    own = kept.read_bytes()
    assert control_length.main([path, "--k", "2", "data.max_test=3"]) == 0
    shown = capsys.readouterr().out
    assert "not kept as the run's own results" in shown
    assert f"not those of {trained_run / 'config.yaml'}: data.max_test; --out FILE" in shown
    assert kept.read_bytes() == own
    elsewhere = tmp_path / "control.json"
    assert control_length.main([path, "data.max_test=3", "--out", str(elsewhere)]) == 0
    assert json.loads(elsewhere.read_text())["changed"] == ["data.max_test"]
    assert kept.read_bytes() == own
    assert control_length.main([path, "data.max_test=3", "--out", str(kept)]) == 2
    assert "is for what is measured with the run's own settings" in capsys.readouterr().err
    kept.unlink()
    assert control_length.main([path, "--k", "5", "index.batch_size=4"]) == 0
    assert kept.read_bytes() == own, "how many passages are encoded at a time changes nothing"


@pytest.mark.parametrize("k", ["0", "-1"])
def test_k_is_a_number_of_passages(trained_run, capsys, k):
    assert control_length.main([str(trained_run), f"--k={k}"]) == 2
    assert f"--k {k}: give 1 or more passages" in capsys.readouterr().err
    assert control_length.main([str(trained_run), "--k", "1000"]) == 2
    assert "give no more" in capsys.readouterr().err
