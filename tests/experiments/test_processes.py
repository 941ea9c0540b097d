"""Several processes make one run, whoever starts them, and end together."""

import os
import queue
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning as L
import psutil
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from callbacks.stop_on_interrupt import RunInterrupted
from experiments import processes, run
from experiments.command_line import USER_ERROR
from experiments.config import ConfigError, load_config
from experiments.preflight_run import starting_point
from experiments.processes import check_launcher, meet, process_arguments
from experiments.runs import RunFolder
from tests.tiny_models import toy_passages, toy_questions
from tests.toy_files import as_overrides, toy_settings

ROOT = Path(__file__).parents[2]


RUN = ("-m", "experiments.run")


def command(
    *arguments: str, launcher: tuple[str, ...] = (), program: tuple[str, ...] = RUN
) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *launcher, *program, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def others_of(process: subprocess.Popen, program: tuple[str, ...] = RUN) -> list[psutil.Process]:
    """Those of the run that Lightning has started for it."""
    children = psutil.Process(process.pid).children()
    return [child for child in children if program[-1] in child.cmdline()]


def told_of_death(made: RunFolder, who: str) -> str:
    """The one message of a run that ends because a process has died."""
    return (
        f"error: {who}, which ends all of them; go on from the last checkpoint with: python -m "
        f"experiments.run --resume {made.path}"
    )


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_main_process_that_dies_ends_all(tmp_path):
    """Here of processes that share a reader; in test_paper_run.py another one dies, and the run goes on."""
    changes = {"trainer__devices": 2, "trainer__max_steps": 400, "trainer__validate_every_steps": 200}
    changes |= {"trainer__strategy": "fsdp", "reader__dtype": "bfloat16", "index__refresh": '"-1"'}
    started = command("--exp", "quickstart", *as_overrides(toy_settings(tmp_path, **changes)))
    wait_for(lambda: list(tmp_path.glob("runs/*/*/checkpoints/last.ckpt")), started)
    others = others_of(started)
    assert len(others) == 1
    started.kill()
    _, said = started.communicate(timeout=60)
    psutil.wait_procs(others, timeout=30)
    assert not any(other.is_running() for other in others)
    [made] = (RunFolder(path) for path in tmp_path.glob("runs/quickstart/*"))
    assert said.count("error: ") == 1
    assert said.strip().splitlines()[-1] == told_of_death(made, "the main process died")
    assert "Traceback" not in said


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_process_that_starts_ends_with_its_main_one(tmp_path, monkeypatch):
    reads, writes = os.pipe()  # open in the last one alone, in the end
    main = os.fork()
    if main == 0:
        try:
            monkeypatch.setenv(processes.MAIN_VARIABLE, str(os.getpid()))
            if os.fork() == 0:
                os.write(writes, b"started")
                with processes.ending_with_main_process(tmp_path):
                    time.sleep(60)
        finally:
            os._exit(0)
    os.close(writes)
    os.waitpid(main, 0)
    started = time.monotonic()
    with os.fdopen(reads, "rb") as pipe:
        assert pipe.read() == b"started"
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("error", [RunInterrupted(by_scheduler=True), ValueError()])
def test_processes_that_have_not_met_end_with_an_interrupt_or_error_of_the_main_one(tmp_path, error):
    arguments = process_arguments(config_of("trainer.devices=2"))
    trainer = L.Trainer(accelerator="cpu", devices=2, logger=False, **arguments)
    with subprocess.Popen(["sleep", "60"]) as other:
        trainer.strategy.launcher.procs = [other]
        with pytest.raises(type(error)), processes.ending_together(trainer, tmp_path):
            raise error
        assert other.wait(5) == -signal.SIGKILL


def test_a_process_that_dies_is_told_of_before_anything_looks_for_it(tmp_path, monkeypatch, capsys):
    """Lightning looks too, and kills the main process without a word."""
    trainer = L.Trainer(
        accelerator="cpu", devices=2, logger=False, **process_arguments(config_of("trainer.devices=2"))
    )
    monkeypatch.setattr(processes, "_EVERY_S", 3600.0)
    codes: queue.Queue[int] = queue.Queue()
    monkeypatch.setattr(os, "_exit", codes.put)
    with subprocess.Popen(["sleep", "60"]) as other:
        trainer.strategy.launcher.procs = [other]
        with processes.ending_together(trainer, tmp_path):
            other.kill()
            assert codes.get(timeout=60) == 1
    assert capsys.readouterr().err.strip() == told_of_death(
        RunFolder(tmp_path), "process 2 of 2 died (SIGKILL)"
    )


def test_one_process_checks_what_several_are_to_train(tmp_path):
    """It encodes all passages, not a share of them."""
    config = load_config("quickstart", as_overrides(toy_settings(tmp_path, trainer__devices=2)))
    with starting_point(config, reads_train=False) as (_, module):
        questions = [question.text for question in toy_questions()]
        queries = module.retriever.encode_queries(questions).detach()
        expected = queries @ module.retriever.encode_passages(toy_passages()).detach().T
        found, _ = module.index.search(queries.numpy(), len(toy_passages()))
    torch.testing.assert_close(
        torch.tensor(found), expected.sort(descending=True).values, rtol=1e-3, atol=1e-3
    )


# ---- who starts them ----


def config_of(*overrides):
    return load_config("quickstart", ["trainer.accelerator=cpu", *overrides])


def started_by(monkeypatch, name: str, number: int) -> None:
    variables = {
        "torchrun": {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": number, "RANK": 0, "LOCAL_RANK": 0},
        "srun": {"SLURM_NTASKS": number, "SLURM_NTASKS_PER_NODE": 4, "SLURM_JOB_NAME": "train"},
    }[name]
    for key, value in variables.items():
        monkeypatch.setenv(key, str(value))


@pytest.mark.parametrize("name", ["torchrun", "srun"])
def test_settings_must_fit_the_processes_that_were_started(monkeypatch, name):
    started_by(monkeypatch, name, 8)
    check_launcher(config_of("trainer.devices=4", "trainer.num_nodes=2"))
    check_launcher(config_of("trainer.devices=8"))
    for overrides in ([], ["trainer.devices=4"], ["trainer.devices=8", "trainer.num_nodes=2"]):
        with pytest.raises(ConfigError, match=rf"^{name} started 8 process\(es\), but trainer.devices="):
            check_launcher(config_of(*overrides))


def test_a_job_that_lightning_cannot_work_with_is_refused(monkeypatch):
    started_by(monkeypatch, "srun", 8)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(ConfigError, match=r"^srun: You set `--ntasks=8`.*--ntasks-per-node"):
        check_launcher(config_of("trainer.devices=8"))


def test_several_machines_need_a_launcher(monkeypatch, capsys, tmp_path):
    check_launcher(config_of("trainer.devices=2"))
    arguments = [
        "--exp",
        "quickstart",
        "trainer.num_nodes=2",
        "trainer.accelerator=cpu",
        f"runs={tmp_path}/runs",
    ]
    assert run.main(arguments) == USER_ERROR
    assert "trainer.num_nodes=2: start the processes of each machine with torchrun" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert (ROOT / processes.DOCS).is_file()


def test_one_process_needs_no_strategy():
    assert process_arguments(config_of())["strategy"] == "auto"
    arguments = process_arguments(config_of("trainer.num_nodes=3"))
    assert arguments["num_nodes"] == 3
    assert isinstance(arguments["strategy"], DDPStrategy)


def test_a_machine_without_the_shared_folder_is_named(monkeypatch, tmp_path):
    """The connection between the machines is replaced by what they would say."""

    class Connected:
        def setup_environment(self) -> None:
            pass

        def broadcast(self, made):
            return made

    def gather(said, own) -> None:
        said[:] = [own, "node7"]

    started_by(monkeypatch, "torchrun", 2)
    monkeypatch.setattr(processes.L, "Trainer", lambda **_: type("Trainer", (), {"strategy": Connected()}))
    monkeypatch.setattr(processes.distributed, "all_gather_object", gather)
    with pytest.raises(ConfigError, match=r"the run folder .* is not there on node7: set runs to"):
        meet(config_of("trainer.devices=2"), {}, lambda: tmp_path)
