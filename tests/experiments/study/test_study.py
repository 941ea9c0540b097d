"""The study on tiny models: cells run once, go on after a kill, and become pages that show their numbers."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from datamodules.sealed_files import DamagedFileError
from experiments.command_line import FAILED, INTERRUPTED, USER_ERROR
from experiments.config import ConfigError, load_config
from experiments.study import material, prediction
from experiments.study.__main__ import main
from experiments.study.before import Asked, measures_before
from experiments.study.cells import Cell, Result, exactly
from experiments.study.derived import of_prediction
from experiments.study.material import Material
from experiments.study.numbers import Numbers
from experiments.study.pages import write_pages
from experiments.study.parts import PARTS
from experiments.study.readers import ReadingOf, Readings
from experiments.study.readings import Reading, Signals
from experiments.study.results_file import TABLE, Table, joined, read_derived, read_table, write_table
from experiments.study.teachers import Teacher, scores_given
from lightning_modules.metrics.teacher_checks import kendall_tau
from tests.tiny_models import save_tiny_models, toy_passages, toy_questions
from tests.toy_files import as_overrides, toy_settings
from tests.toy_training import LIGHTNING_ADVICE

pytestmark = [pytest.mark.filterwarnings(message) for message in LIGHTNING_ADVICE]


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Folder, and arguments of a study of few questions."""
    folder = tmp_path_factory.mktemp("study")
    changes = {"reader__context": "independent", "training__num_passages": 4}
    settings = toy_settings(folder, **changes, retrieval__candidates="both")
    sizes = ["--questions", "6", "--unseen", "4"]
    return folder, [*sizes, "--out", str(folder / "pages"), *as_overrides(settings)]


def test_cells_run_once_go_on_after_a_kill_and_become_pages(command, monkeypatch, capsys):
    folder, arguments = command
    wanted = [
        *("initial answer", "initial likelihood", "initial answer layers:0-4"),
        *("uniform", "length", "labels"),
    ]
    monkeypatch.setattr(
        prediction,
        "cells",
        lambda seeds: [Cell.of("prediction", seed, teacher=name) for seed in seeds for name in wanted],
    )
    monkeypatch.setitem(PARTS, "prediction", type(PARTS["prediction"])(prediction.cells, prediction.run, ""))
    teach, taught = prediction.teach, []

    def killed_once(*given):
        taught.append(given)
        if len(taught) == 2:
            raise KeyboardInterrupt
        return teach(*given)

    monkeypatch.setattr(prediction, "teach", killed_once)
    monkeypatch.setattr(of_prediction, "FEWEST_TEACHERS", 2)
    once = ["prediction", "--seeds", "1", *arguments]
    assert main(once) == INTERRUPTED
    (kept,) = folder.glob("runs/study/cells-*/*.json")
    written = kept.stat().st_mtime_ns
    assert main([*once, "--list"]) == 0
    assert capsys.readouterr().out.count("to run") == len(wanted) - 1
    assert main(once) == 0
    said = capsys.readouterr()
    # the tiny reader has two layers: what is made of others is left out
    assert said.out.count("left out, its reader has no such signal") == 1
    assert kept.stat().st_mtime_ns == written
    assert len(taught) == 1 + 1 + len(wanted) - 2
    check_pages(folder)


def test_a_cell_that_fails_ends_no_other(command, tmp_path, monkeypatch, capsys):
    _, arguments = command
    only = [*("--only", "prediction/teacher=initial-last/seed=0"), *("--only", "prediction/teacher=length/*")]
    ran = []

    def run(cell, material, readings):
        ran.append(cell.name)
        if len(ran) == 1:
            raise RuntimeError("the disk is on fire")
        return part.run(cell, material, readings)

    part = PARTS["prediction"]
    monkeypatch.setitem(PARTS, "prediction", type(part)(part.cells, run, ""))
    assert main(["prediction", "--seeds", "1", *only, *arguments, "seed=7", "--out", str(tmp_path)]) == FAILED
    assert ran == [f"prediction/teacher={name}/seed=0" for name in ("initial-last", "length")]
    assert "initial-last/seed=0: the disk is on fire" in capsys.readouterr().err


def test_a_second_reader_is_of_another_family(command, tmp_path, capsys):
    _, arguments = command
    second, _ = save_tiny_models(tmp_path / "models", family="falcon_rw")
    part = ["teachers", "--only", "*=second/signal=likelihood/*", "--only", "*=second/signal=last/*"]
    elsewhere = [*part, *arguments, f"runs={tmp_path / 'runs'}", "--out", str(tmp_path / "pages")]
    assert main(elsewhere) == USER_ERROR, "there is nothing to write"
    assert capsys.readouterr().out.count("left out, there is no second reader; --second names one") == 2
    assert main([*elsewhere, "--second", str(second)]) == 0
    found = read_table(tmp_path / "pages" / TABLE)
    assert {result.cell["reader"] for result in found} == {"second"}
    assert all(0 <= result.measures["auc"].mean <= 1 for result in found)
    assert list(tmp_path.glob("runs/study/read-*/readings/second-independent-both-reader.npz"))
    capsys.readouterr()
    assert main([*elsewhere, "--second", "owner/another"]) == USER_ERROR, "its cells would be the first one's"
    assert "are of the second reader reader; set runs to another folder" in capsys.readouterr().err


def check_pages(folder):
    """Every cell is in the table, and the page shows its numbers."""
    results = read_table(folder / "pages" / TABLE)
    assert len(results) == 5
    by_name = {result.cell.name: result for result in results}
    page = (folder / "pages" / "prediction.md").read_text()
    for teacher in ("initial-answer", "length"):
        of = by_name[f"prediction/teacher={teacher}/seed=0"]
        change = np.subtract(of.questions["hr_at_5"], of.questions["start/hr_at_5"])
        assert f"{change.mean():+.3f} [" in page
        assert of.questions["gain/hr_at_5"] == pytest.approx(change)
        assert of.measures["gain/hr_at_5"].mean == pytest.approx(change.mean())
        assert len(of.questions["hr_at_5"]) == 4
        assert len(of.questions["validation/hr_at_5@2"]) == len(of.questions["validation/hr_at_5@4"]) == 6
    numbers = read_derived(folder / "pages" / TABLE)
    gains = numbers.at("prediction", teacher="initial answer")["gain/beyond_length"]
    assert f"{gains.mean:+.3f} [{gains.low:.3f}, {gains.high:.3f}]" in page
    assert numbers.at("prediction", teachers="with-a-reader")["teachers"].mean == 2
    labels = by_name["prediction/teacher=labels/seed=0"].measures
    assert labels["before/auc"].mean == 1.0
    assert "before/fixed_preference" not in labels, "nobody asked them of another question"
    assert labels["before/mass_on_answers"].mean == pytest.approx(1.0, abs=1e-4)
    assert (folder / "pages" / "README.md").read_text().startswith("# The study")
    assert "<svg" in (folder / "pages" / "correlations-gain-hr_at_5.svg").read_text()[:2000]


def test_other_settings_are_not_mixed_into_a_table(tmp_path):
    table = tmp_path / TABLE
    first, second = (Result(Cell.of("teachers", signal=of), {"auc": exactly(0.5)}) for of in "ab")

    def add(result, settings, of_second=""):
        write_table(joined(Table([result], settings, of_second), table), Numbers(), table)

    add(first, "settings")
    add(second, "settings")
    assert [result.cell["signal"] for result in read_table(table)] == ["a", "b"]
    with pytest.raises(ValueError, match="results of other settings"):
        add(first, "others")
    add(first, "settings", "gemma.gguf")
    add(second, "settings")
    with pytest.raises(ValueError, match=r"of the second reader gemma\.gguf, .* with those of qwen\.gguf"):
        add(second, "settings", "qwen.gguf")


@pytest.mark.parametrize(
    ("second", "end"),
    [
        ("/models/gemma-q4.gguf", "gemma-q4"),
        ("meta-llama/Llama-3.2-1B", "meta-llama--Llama-3.2-1B"),
        ("meta-llama/Llama-3.1-8B", "meta-llama--Llama-3.1-8B"),
    ],
)
def test_readings_of_second_readers_are_told_apart(second, end, tmp_path):
    readings = Readings(SimpleNamespace(second=second, folder=tmp_path))
    assert readings._file_name(ReadingOf("second")).endswith(f"-{end}")


def test_advice_must_cite_cells_and_name_rows_that_are_there(tmp_path, command, capsys):
    _, arguments = command
    out = tmp_path / "pages"
    table = out / TABLE
    one = Result(Cell.of("teachers", signal="a"), {"auc": exactly(0.5)})
    out.mkdir()
    write_table(Table([one], "settings"), Numbers(), table)
    written, advice = table.read_bytes(), out / "advice.template.md"
    render = ["--render", *arguments, f"runs={tmp_path / 'runs'}", "--out", str(out)]
    for text, said in {
        "Use it (`teachers/signal=b/seed=0`).": "cites teachers/signal=b/seed=0",
        "Use it, {{teachers/signal=a/seed=0 mrr}}.": "advice.template.md: {{teachers/signal=a/seed=0 mrr}}: ",
    }.items():
        advice.write_text(text)
        assert main(render) == USER_ERROR
        assert said in capsys.readouterr().err
        assert table.read_bytes() == written
        assert sorted(path.name for path in out.iterdir()) == [advice.name, TABLE], "nothing is half-written"


def test_new_cells_come_into_the_table_with_the_pages_or_not_at_all(tmp_path):
    """A page that is refused leaves the table as it was, so that no number stands beside other cells."""
    out, one = tmp_path / "pages", Result(Cell.of("tables", 0, setting="initial", steps="60"))
    one.questions["hit_at_5"] = [1.0, 0.0]
    write_pages(out, Table([one], "settings"))
    written = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "advice.template.md").write_text("{{derived/of=tables/steps=60 runs word}} {{no/such row}}")
    two = replace(one, cell=replace(one.cell, seed=1))
    with pytest.raises(ConfigError, match="has no row of cell 'no/such'"):
        write_pages(out, joined(Table([two], "settings"), out / TABLE))
    assert {name: (out / name).read_bytes() for name in written} == written
    (out / "advice.template.md").write_text("{{derived/of=tables/steps=60 runs word}}")
    write_pages(out, joined(Table([two], "settings"), out / TABLE))
    assert (out / "advice.md").read_text() == "two"
    assert len(read_table(out / TABLE)) == 2


def test_a_reading_that_is_not_what_was_written_is_read_again(tmp_path):
    signals = Signals({"answer": torch.rand(40, 6)})
    indicators = {"all": {"indicator1/attention_p90": torch.rand(40)}}
    reading = Reading(signals, signals, indicators, torch.ones(40, 6), torch.ones(40, 6) > 0, 1.5)
    path = tmp_path / "reading.npz"
    reading.save(path)
    written = path.read_bytes()
    assert torch.equal(Reading.load(path).signals["answer"], signals["answer"])
    for damage in (b"", written[: len(written) // 2], written.replace(written[2000:2004], b"1234")):
        path.write_bytes(damage)
        with pytest.raises(DamagedFileError, match="is damaged"):
            Reading.load(path)


def test_the_order_for_another_question_is_compared_without_length_too():
    """Of a reader that goes by length whatever is asked."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(20, 200, (24, 6), generator=generator).float()
    own, other = 0.3 * torch.randn(2, 24, 6, generator=generator)
    asked, unrelated = Signals({"answer": lengths.log() + own}), Signals({"answer": lengths.log() + other})
    has_answer = torch.arange(6).expand(24, 6) == 2
    reading = Reading(asked, unrelated, {"answer": {}}, lengths, has_answer, 0.0)
    plain = Teacher("paper", "paper", (("answer", 1.0),), ReadingOf())
    without = replace(plain, without_length=True)
    same_order = {}
    for teacher in (plain, without):
        scores = scores_given(teacher, asked, lengths)
        log_p_retr = torch.zeros(24, 6).log_softmax(dim=-1)
        measured = measures_before(teacher, scores, Asked(has_answer, lengths, log_p_retr), reading)
        expected = kendall_tau(scores, scores_given(teacher, unrelated, lengths)).mean()
        same_order[teacher] = measured["fixed_preference"].mean
        assert same_order[teacher] == pytest.approx(float(expected))
    assert same_order[plain] > 0.5
    assert abs(same_order[without]) < 0.2, "what is left was drawn anew"


@pytest.mark.parametrize(
    "changed", ["trainer.precision=bf16-true", "objective.retrieval_temperature=0.3", "reader.dtype=bfloat16"]
)
def test_what_readings_depend_on_has_a_folder_of_its_own(changed, tmp_path):
    settings = [f"runs={tmp_path}", "trainer.precision=32-true", "objective.retrieval_temperature=0.1"]
    one, other = (Material.of("checkpoint_vital", [*settings, *more], 6, 4) for more in ([], [changed]))
    assert one.folder != other.folder
    assert one.settings != other.settings


def test_a_table_keeps_intervals_and_questions(tmp_path):
    result = Result(Cell.of("teachers", 3, signal="a b/c"), {"auc": exactly(0.25)}, {"hits": [1.0, 0.0]})
    write_table(Table([result], "s"), Numbers(), tmp_path / "t.parquet")
    (found,) = read_table(tmp_path / "t.parquet")
    assert found.cell == result.cell
    assert found.cell.name == "teachers/signal=a-b-c/seed=3"
    assert found.measures["auc"].mean == 0.25
    assert np.isnan(found.measures["auc"].low)
    assert found.questions["hits"] == [1.0, 0.0]
    rows = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert json.loads(rows[0]["factors"]) == {"signal": "a b/c"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["nothing"], "part 'nothing' is unknown"),
        (["--only", "no/*"], "no cell has such a name"),
        (["--seeds", "0"], "--seeds 0 must be at least 1"),
        (["--questions", "1"], "--questions 1 must be at least 2"),
        (["--unseen", "-1"], "--unseen -1 must be at least 0"),
    ],
)
def test_what_cannot_be_is_refused(given, said, tmp_path, capsys):
    assert main([*given, f"runs={tmp_path}", "--list"]) == USER_ERROR
    assert said in capsys.readouterr().err


def test_nobody_learns_from_what_is_measured_on(command):
    overrides = [word for word in command[1] if "=" in word]
    made = Material.of("quickstart", overrides, 6, num_unseen=4)
    train = made.datamodule.train
    assert (made.reader_questions, made.questions, made.test_questions) == (
        train[:2],
        train[2:8],
        train[8:],
    )
    made = Material.of("quickstart", overrides, 6, num_unseen=0)
    assert made.questions == made.datamodule.train[6:]
    assert made.test_questions == made.datamodule.test


def test_questions_that_are_measured_on_are_never_taught_even_where_there_are_no_others(command):
    overrides = [word for word in command[1] if "=" in word]
    made = Material.of("quickstart", overrides, 6, num_unseen=14)
    assert len(made.test_questions) == len(made.datamodule.train) == 12
    with pytest.raises(ConfigError, match="there are only 12 training questions"):
        _ = made.questions


def test_some_passages_are_searched_where_the_gold_ones_are_known_and_else_all():
    passages = toy_passages()
    titled = replace(toy_questions()[0], title=passages[7].title)
    some = material._some(passages, [titled], 4)
    assert len(some) == 4
    assert passages[7] in some
    assert material._some(passages, [replace(titled, title="")], 4) == passages


def test_more_questions_than_there_are(command):
    _, arguments = command
    made = Material.of("quickstart", [word for word in arguments if "=" in word], 9, 4)
    with pytest.raises(ConfigError, match="--questions 9 and --unseen 4: there are only"):
        _ = made.questions


def test_readers_look_at_all_heads_where_no_teacher_chooses_some(tmp_path):
    """Whatever its experiment has: no list is of those that it trains."""
    assert load_config("quickstart").reader.attention_heads is not None
    config = Material.of("quickstart", [f"runs={tmp_path}"], 128).config
    assert config.reader.attention_heads is None


def test_every_part_has_cells_with_names_of_their_own():
    cells = [cell for part in PARTS.values() for cell in part.cells(range(3))]
    assert len({cell.name for cell in cells}) == len(cells) > 100
