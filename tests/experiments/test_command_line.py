"""What a disk does to a command: one message with the way out, whichever library was told of it."""

import errno
import importlib
import os
import resource
import subprocess
import sys

import faiss
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from experiments.command_line import CLOSED_PIPE, USER_ERROR, disk_trouble, run_command
from experiments.config import load_config
from experiments.runs import create_run


def wrapped(cause: BaseException) -> RuntimeError:
    try:
        try:
            raise cause
        except BaseException as error:
            raise RuntimeError("a library's own words") from error
    except RuntimeError as error:
        return error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG])
def test_the_systems_errors_have_a_way_out(number, capsys):
    error = OSError(number, os.strerror(number), "/runs/last.ckpt")

    def work() -> int:
        raise wrapped(error)

    assert run_command(work) == USER_ERROR
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: /runs/last.ckpt: {os.strerror(number)}; ")
    assert "set runs to a folder" in line or "another disk" in line


def test_words_alone_are_understood():
    trouble = disk_trouble(RuntimeError("Error in write: 28 != 100 (No space left on device)\nat fileio.cc"))
    assert trouble is not None
    assert trouble.startswith("Error in write: 28 != 100 (No space left on device); make room")


def test_a_number_that_cannot_be_logged_for_want_of_space_is_of_the_disk(monkeypatch, tmp_path, capsys):
    """Lightning says of any error there that numbers of this kind are not supported."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "events.out")

    logger = TensorBoardLogger(tmp_path)
    monkeypatch.setattr(logger.experiment, "add_scalar", full)
    assert run_command(lambda: logger.log_metrics({"loss": 0.5}, step=1) or 0) == USER_ERROR
    said = capsys.readouterr().err
    assert said.startswith("error: events.out: No space left on device; ")
    assert "not supported" not in said


def test_other_errors_are_not_of_the_disk():
    assert disk_trouble(wrapped(KeyError("x"))) is None
    with pytest.raises(RuntimeError, match="a library's own words"):
        run_command(lambda: (_ for _ in ()).throw(wrapped(FileNotFoundError(errno.ENOENT, "no", "x"))))


@pytest.mark.parametrize("kind", ["numpy", "torch", "faiss"])
def test_libraries_that_find_no_room_are_understood(tmp_path, kind):
    """The system refuses a file that becomes too large, as it does on a full disk."""
    rows = np.zeros((5000, 16), dtype=np.float32)
    index = faiss.IndexFlatIP(16)
    index.add(rows)
    write = {
        "numpy": lambda path: rows.tofile(path),
        "torch": lambda path: torch.save(torch.from_numpy(rows), path),
        "faiss": lambda path: faiss.write_index(index, path),
    }[kind]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises((OSError, RuntimeError)) as raised:
            write(str(tmp_path / "file"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert disk_trouble(raised.value) is not None


def test_a_closed_pipe_ends_a_command_without_a_word():
    program = (
        "import sys; from experiments.command_line import run_command\n"
        "def work():\n    for _ in range(100_000): print('line')\n    return 0\n"
        "sys.exit(run_command(work))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "line\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=30) == CLOSED_PIPE


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("run", ["--exp", "quickstart", "seed=1", "--print-config"]),
        ("sweep", ["--exp", "quickstart", "seed=1,2", "--launcher", "local"]),
        ("analyse", ["--exp", "quickstart", "seed=1", "--instances", "4"]),
        ("control_length", ["{run}", "seed=1", "--k", "5"]),
        ("select_heads", ["--exp", "quickstart", "seed=1", "--num-heads", "4"]),
        ("score", ["--exp", "quickstart", "seed=1", "--out", "scores.jsonl"]),
        ("plan", ["--exp", "quickstart", "seed=1", "--gpu", "none"]),
        ("probe", ["--exp", "quickstart", "seed=1", "--instances", "4"]),
        ("evaluate", ["bm25", "seed=1", "--exp", "quickstart"]),
        ("download", ["--exp", "quickstart"]),
        ("benchmarks.gold_answers", ["seed=1", "--questions", "4"]),
        ("benchmarks.token_drops", ["seed=1", "--questions", "4"]),
        ("benchmarks.shuffle_reader", ["seed=1", "--out", "reader"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_may_stand_before_and_after_options(tmp_path, capsys, module, arguments):
    """The last one is read as a setting, and refused as one that there is not."""
    made = create_run(load_config("quickstart", [f"runs={tmp_path}"]))
    command = importlib.import_module(f"experiments.{module}")
    given = [argument.format(run=made.path) for argument in arguments]
    assert command.main([*given, "trainer.max_stepz=1"]) == USER_ERROR
    assert "did you mean 'trainer.max_steps'?" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    assert ended.value.code == 0
    assert "=" in capsys.readouterr().out, "settings are shown"
