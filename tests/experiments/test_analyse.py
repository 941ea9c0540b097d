"""From a run to its token file and its metrics, as a user asks for them."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.sealed_files import read_json
from datamodules.token_file import TokenFile
from experiments import analyse, run
from experiments.runs import RunFolder, snapshot_of_run
from lightning_modules.metrics.measures import all_measures
from tests.tiny_models import save_tiny_models
from tests.toy_files import as_overrides, toy_settings

ROOT = Path(__file__).parents[2]


def start_run(folder, experiment, **changes) -> RunFolder:
    """A run on toy files, whose questions retrieve positive and negative passages."""
    changes = {"training__num_passages": 20, "evaluation__monitor": "null", **changes}
    settings = toy_settings(folder, stopping__enabled="false", **changes)
    assert run.main(["--exp", experiment, *as_overrides(settings)]) == 0
    [made] = (folder / "runs" / experiment).glob("*")
    return RunFolder(made)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run that trained both models; nobody changes it."""
    return start_run(tmp_path_factory.mktemp("trained"), "offshelf_vital")


@pytest.fixture(scope="module")
def measured(trained):
    """Its token files of the end and of the start."""
    assert analyse.main(["--run", str(trained.path), "--show", "0"]) == 0
    assert analyse.main(["--run", str(trained.path), "--show", "0", "--start"]) == 0
    return trained.path / "analysis"


def logged(made, when) -> dict[str, float]:
    """The indicators and the teacher's validity that the run itself measured."""
    summary = json.loads(made.summary.read_text())
    return {name: pair[when] for name, pair in {**summary["indicators"], **summary["teacher"]}.items()}


def assert_same(path, expected):
    """The file's means, deviations and counts of undefined passages are those that the run logged."""
    content = json.loads(path.read_text())
    metrics, counts = content["metrics"], content["counts"]
    names = {measure.name for measure in all_measures() if measure.of_read and measure.has_questions}
    assert metrics.keys() == names <= expected.keys()
    for name in names:
        found = metrics[name]
        assert found["mean"] == pytest.approx(expected[name], abs=1e-5), name
        if f"{name}_std" in expected:
            assert found["std"] == pytest.approx(expected[f"{name}_std"], abs=1e-5), name
        if "/spearman" in name:
            undefined = name.replace("spearman", "undefined")
            assert counts[undefined] == expected[undefined]
        if found["n"] > 1:
            assert found["low"] <= found["mean"] <= found["high"]


def metrics_of(path) -> dict:
    return json.loads(path.read_text())["metrics"]


# ---- the numbers are the run's own ----


def test_the_end_of_a_run_is_as_the_run_logged_it(trained, measured):
    assert logged(trained, "before") != logged(trained, "after")
    assert logged(trained, "after")["teacher/auc"] is not None
    assert_same(measured / "metrics.json", logged(trained, "after"))


def test_so_does_its_start(trained, measured):
    assert_same(measured / "metrics-start.json", logged(trained, "before"))


@pytest.mark.parametrize(
    "changes",
    [
        {"objective__name": "pdist"},
        {"evaluation__token_embeddings": "contextual", "evaluation__attention_normalization": "prompt"},
        {"reader__context": "independent", "evaluation__percentiles": "[50]"},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())),
)
def test_a_run_that_only_measures_under_other_settings(tmp_path, changes):
    made = start_run(tmp_path, "checkpoint_vital", **changes)
    assert analyse.main(["--run", str(made.path), "--show", "0"]) == 0
    expected = {n.replace("_p50", "_p90"): v for n, v in logged(made, "after").items()}
    found = metrics_of(made.path / "analysis" / "metrics.json")
    found = {n.replace("_p50", "_p90"): v for n, v in found.items()}
    for name, value in found.items():
        assert value["mean"] == pytest.approx(expected[name], abs=1e-5), name


def test_a_fusion_reader(tmp_path):
    reader, _ = save_tiny_models(tmp_path / "t5", family="t5")
    made = start_run(tmp_path, "checkpoint_vital", reader__name=reader)
    assert analyse.main(["--run", str(made.path), "--show", "0"]) == 0
    assert_same(made.path / "analysis" / "metrics.json", logged(made, "after"))


def test_every_question_has_a_line(measured):
    lines = [json.loads(line) for line in (measured / "instances.jsonl").read_text().splitlines()]
    assert {line["id"] for line in lines} == {f"q{i}" for i in range(1, 12, 2)}
    for name, summary in metrics_of(measured / "metrics.json").items():
        values = [line["metrics"][name] for line in lines]
        defined = [value for value in values if value is not None]
        assert len(defined) == summary["n"]
        if defined:
            assert sum(defined) / len(defined) == pytest.approx(summary["mean"], abs=1e-6)


def test_the_file_says_where_it_comes_from(trained, measured):
    info, start = (TokenFile(measured / f"{name}.parquet").info for name in ("tokens", "tokens-start"))
    assert info["run"] == start["run"] == str(trained.path)
    assert (info["experiment"], info["split"], info["num_passages"]) == ("offshelf_vital", "test", 20)
    assert (info["objective"], info["scale"], info["seed"], info["sample_seed"]) == (
        "adist",
        "embedded",
        0,
        0,
    )
    assert (info["weights"], start["weights"]) == ("end", "start")
    assert info["reader"] == str(trained.reader)
    assert start["reader"] != info["reader"]
    assert info["packages"]["torch"]


# ---- what is read, and where it goes ----


def test_a_sample_is_what_a_run_reads_first(trained, measured, tmp_path, capsys):
    path = tmp_path / "sample.parquet"
    assert analyse.main(["--run", str(trained.path), "--instances", "4", "--out", str(path)]) == 0
    everything = TokenFile(measured / "tokens.parquet").units(6)
    assert [u.question_id for u in TokenFile(path).units(9)] == [u.question_id for u in everything[: 4 * 20]]
    assert {p.name for p in tmp_path.iterdir()} == {
        "sample.parquet",
        "metrics-sample.json",
        "instances-sample.jsonl",
    }
    assert "fewer" not in capsys.readouterr().out


def test_another_split_has_files_of_its_own(trained, capsys):
    before = {p.name for p in (trained.path / "analysis").glob("*")}
    assert analyse.main(["--run", str(trained.path), "--split", "validation"]) == 0
    assert {p.name for p in (trained.path / "analysis").glob("*")} - before == {
        "tokens-validation.parquet",
        "metrics-validation.json",
        "instances-validation.jsonl",
    }
    assert "the validation split has 6 questions, fewer than 1000: all were read" in capsys.readouterr().out


def test_an_experiment_needs_no_run(tmp_path):
    settings = toy_settings(tmp_path)
    assert (
        analyse.main(["--exp", "step2_vital", *as_overrides({**settings, "init.reader_from": "null"})]) == 0
    )
    folder = tmp_path / "runs" / "step2_vital" / "analysis"
    assert {p.name for p in folder.iterdir()} == {
        "tokens-start.parquet",
        "metrics-start.json",
        "instances-start.jsonl",
    }
    assert TokenFile(folder / "tokens-start.parquet").info["run"] is None
    assert not list(tmp_path.glob("runs/*/*/config.yaml")), "no run"
    assert not list(tmp_path.glob("runs/cache/analysis-*")), "nothing is left in the cache"


def test_a_run_that_has_not_finished_is_read_at_its_start(trained, tmp_path, capsys):
    unfinished = tmp_path / "run"
    unfinished.mkdir()
    shutil.copy(trained.config, unfinished)
    assert analyse.main(["--run", str(unfinished)]) == 0
    assert "has not finished: its weights at the start" in capsys.readouterr().out
    assert_same(unfinished / "analysis" / "metrics-start.json", logged(trained, "before"))


def test_the_runs_index_is_used_and_kept(trained, measured, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("the run has an index of these weights")

    kept = sorted(trained.index.iterdir())
    monkeypatch.setattr("callbacks.index_builder.encode_rows", refuse)
    assert analyse.main(["--run", str(trained.path), "--show", "0"]) == 0
    assert sorted(trained.index.iterdir()) == kept


def test_a_run_keeps_the_reader_that_it_started_from(trained, tmp_path):
    """`latest:` would name another run today."""
    settings = {"init__reader_from": trained.path, "training__train_reader": "false"}
    made = start_run(tmp_path, "step2_vital", **settings)
    found = snapshot_of_run(made.path, ["init.reader_from=latest:step1_vital"])
    assert found.weights == {"reader": trained.reader, "retriever": made.retriever}


# ---- from a file ----


def test_other_settings_are_shown_and_not_saved(measured, capsys):
    before = (measured / "metrics.json").read_bytes()
    arguments = ["--from", str(measured / "tokens.parquet"), "--show", "0"]
    assert analyse.main([*arguments, "--percentiles", "50", "--normalization", "prompt"]) == 0
    shown = capsys.readouterr().out
    assert "Indicator 1 Spearman p50" in shown
    assert "p90" not in shown
    assert "other settings than the run's: shown, not saved" in shown
    assert (measured / "metrics.json").read_bytes() == before


def test_the_runs_own_settings_give_the_same_files_again(measured):
    path = measured / "tokens.parquet"
    names = ("metrics.json", "instances.jsonl")
    before = {name: (measured / name).read_bytes() for name in names}
    for name in names:
        (measured / name).unlink()
    assert analyse.main(["--from", str(path)]) == 0
    assert {name: (measured / name).read_bytes() for name in names} == before


def test_under_other_settings_nothing_is_saved_as_the_runs_own(trained, measured, tmp_path, capsys):
    """The settings that the indicators are computed with are other settings, too."""
    before = {path: path.read_bytes() for path in measured.iterdir()}
    changed = [
        "--run",
        str(trained.path),
        "--instances",
        "2",
        "--show",
        "0",
        "evaluation.attention_normalization=none",
    ]
    assert analyse.main(changed) == 0
    shown = capsys.readouterr().out
    assert "attention normalised over: none" in " ".join(shown.split())
    assert f"not those of {trained.config}: evaluation.attention_normalization; --out FILE" in shown
    assert "tokens:" not in shown, "the file is gone"
    assert {path: path.read_bytes() for path in measured.iterdir()} == before
    assert analyse.main([*changed, "--out", str(tmp_path / "mine.parquet")]) == 0
    assert "measured with other settings than the run's: evaluation.att" in capsys.readouterr().out
    assert TokenFile(tmp_path / "mine.parquet").info["changed"] == ["evaluation.attention_normalization"]
    saved = json.loads((tmp_path / "metrics-mine.json").read_text())
    assert saved["settings"]["normalization"] == "none"
    assert {path: path.read_bytes() for path in measured.iterdir()} == before


# ---- mistakes ----


def refused(capsys, arguments) -> str:
    assert analyse.main(arguments) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name what to analyse: --run RUN, --exp NAME or --from FILE"),
        (["--run", "nowhere"], "--run nowhere: not a run folder (it holds no config.yaml)"),
        (["--run", "{file}"], "not a run folder"),
        (["--run", "{run}", "--instances", "0"], "--instances 0: give 1 or more questions"),
        (["--run", "{run}", "--percentiles", "101"], "--percentiles: 101 does not lie between 0 and 100"),
        (["--run", "{run}", "trainer.max_stepz=1"], "did you mean 'trainer.max_steps'?"),
        (["--run", "{run}", "data.test=nowhere.jsonl"], "data.test: there is no file"),
        (["--exp", "quickstrat"], "did you mean 'quickstart'?"),
        (["--from", "nowhere.parquet"], "nowhere.parquet does not exist"),
        (["--from", "{config}"], "config.yaml: not a token file, or a damaged one"),
        (["--from", "{file}", "--percentiles", "-1"], "-1 does not lie between 0 and 100"),
        (["--from", "{file}", "--percentiles", "many"], "--percentiles: many: give whole numbers"),
        (["--from", "{file}", "--percentiles", "90", "90"], "give at least one, each once"),
        (["--from", "{file}", "--embeddings", "output"], "choose one of: input, contextual"),
        (["--from", "{file}", "--normalization", "all"], "choose one of: passage, prompt, none"),
        (["--from", "{file}", "--match", "fuzzy"], "choose one of: tokens, substring"),
        (
            ["--from", "{lacking}", "--embeddings", "contextual"],
            "lacks the column answer_similarity_contextual",
        ),
        (["--from", "{partial}", "--normalization", "prompt"], "the passages' tokens alone were scored"),
        (
            ["--run", "{run}", "objective.name=pdist", "--normalization", "prompt"],
            "token_drops=masked_prompt",
        ),
        (["--run", "{run}", "seed=3", "--out", "{run}/analysis/mine.parquet"], "some are not those of"),
        (["--from", "{file}", "--start", "a=1"], "--start, a=1: of no use with --from"),
        (["--from", "{file}", "--show", "-1"], "--show -1: give 0 or more questions"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(capsys, trained, measured, tmp_path, arguments, message):
    file, lacking = measured / "tokens.parquet", tmp_path / "lacking.parquet"
    partial = tmp_path / "partial.parquet"
    whole = pq.ParquetFile(file)
    table = whole.read()
    metadata = {k: v for k, v in whole.metadata.metadata.items() if k != b"ARROW:schema"}
    shorter = table.drop_columns(["answer_similarity_contextual"])
    pq.write_table(shorter.replace_schema_metadata(metadata), lacking)
    place = table.column_names.index("prompt_total")
    unknown = pa.array([float("nan")] * len(table), pa.float32())
    of_passages = table.set_column(place, table.schema.field(place), unknown)
    pq.write_table(of_passages.replace_schema_metadata(metadata), partial)
    names = {
        "run": trained.path,
        "config": trained.config,
        "file": file,
        "lacking": lacking,
        "partial": partial,
    }
    before = sorted(trained.path.rglob("*"))
    capsys.readouterr()
    assert message in refused(capsys, [argument.format(**names) for argument in arguments])
    assert sorted(trained.path.rglob("*")) == before
    assert sorted(tmp_path.iterdir()) == [lacking, partial]


def test_a_reader_that_is_gone(capsys, trained, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(trained.config, folder)
    summary = read_json(trained.summary)
    summary["started_from"] = {"reader": str(tmp_path / "gone" / "reader")}
    (folder / "summary.json").write_text(json.dumps(summary))
    assert "started from the reader in" in refused(capsys, ["--run", str(folder)])


def test_ctrl_c_leaves_nothing(tmp_path):
    settings = toy_settings(tmp_path, data__evaluation_batch_size=1)
    program = (
        "import sys, time\nfrom callbacks.save_tokens import SaveTokens\nfrom experiments import analyse\n"
    )
    # a shell makes what it starts in the background ignore Ctrl-C, and the tests may be such
    program += "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program += "write = SaveTokens.on_test_batch_end\n"
    program += "def slow(*a, **k): write(*a, **k); print('read', flush=True); time.sleep(60)\n"
    program += "SaveTokens.on_test_batch_end = slow\nsys.exit(analyse.main(sys.argv[1:]))\n"
    running = subprocess.Popen(
        [sys.executable, "-c", program, "--exp", "quickstart", *as_overrides(settings)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout.readline() == "read\n"
    assert list(tmp_path.rglob("*.partial"))
    time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    _, shown = running.communicate(timeout=60)
    assert running.returncode == 130
    assert shown.splitlines()[-1] == "interrupted"
    assert "Traceback" not in shown
    assert not [p for p in tmp_path.rglob("*") if "partial" in p.name or p.suffix == ".parquet"]
    assert not list(tmp_path.glob("runs/cache/analysis-*"))
