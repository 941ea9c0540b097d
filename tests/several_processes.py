"""Programs of several processes, which one server forks that has imported torch and Lightning already.

An import takes seconds, and each process would do it anew. What starts processes from nothing has tests of
its own (tests/experiments/test_processes.py, test_paper_run.py).
"""

import multiprocessing
import os
import runpy
import sys
import warnings
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port

ROOT = Path(__file__).parents[1]
NUM_PROCESSES = 2
LONGEST_S = 300


def forking() -> ForkServerContext:
    """A context whose processes are forks of a server, one for each process of the tests.

    The server never computes, hence has no threads that a fork would miss.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.toy_training"])
    # the server imports with the path of a fresh interpreter, wherever the test is at work
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(ROOT))
        patched.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
    return context


def run_script(folder: Path, text: str) -> None:
    """Runs a program in two processes at once, with `folder` as its argument.

    Each finds in its environment which one it is, as where a launcher starts them, so that Lightning starts
    no further ones.
    """
    script = folder / "two_processes.py"
    script.write_text(text)
    port, context = find_free_network_port(), forking()
    said = [folder / f"said{rank}.txt" for rank in range(NUM_PROCESSES)]
    started = [
        context.Process(target=_run, args=(script, folder, rank, port, path))
        for rank, path in enumerate(said)
    ]
    for process in started:
        process.start()
    try:
        for process in started:
            process.join(LONGEST_S)
    finally:
        for process in started:
            process.kill()
    told = "\n".join(path.read_text()[-3000:] for path in said if path.is_file())
    assert [process.exitcode for process in started] == [0] * NUM_PROCESSES, told


def _run(script: Path, folder: Path, rank: int, port: int, said: Path) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sys.argv = [str(script), str(folder)]
    with said.open("w") as file:  # the traceback of what ends the process is printed, too
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    runpy.run_path(str(script), run_name="__main__")
