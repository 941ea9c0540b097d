"""One process at a time works in a run's folder; who is killed there leaves it free."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from experiments.config import ConfigError
from experiments.run_lock import LOCK_FILE, locked

HOLD = """
import sys, time
from pathlib import Path
from experiments.run_lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_is_refused_with_the_first_ones_process_and_machine(tmp_path, holder):
    wanted = f"is being run by process {holder.pid} on {socket.gethostname()}, since 20"
    with pytest.raises(ConfigError, match=wanted), locked(tmp_path):
        pytest.fail("it is taken")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK_FILE).is_file(), "a kill leaves the file"
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["process"] == os.getpid()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("host", "process", "is_refused"),
    [(socket.gethostname(), 1, True), (socket.gethostname(), 2**22 + 1, False), ("elsewhere", 7, True)],
    ids=["runs", "is gone", "of another machine"],
)
def test_without_locks_of_the_file_system_the_process_counts(
    tmp_path, monkeypatch, host, process, is_refused
):
    def not_supported(*_args) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", not_supported)
    said = {"process": process, "host": host, "since": time.strftime("%Y")}
    (tmp_path / LOCK_FILE).write_text(json.dumps(said))
    if is_refused:
        with pytest.raises(ConfigError, match=rf"process {process} on {host}.*delete "), locked(tmp_path):
            pytest.fail("it is taken")
    else:
        with locked(tmp_path):
            pass


def test_the_holder_is_named_and_not_the_killed_one_before_it(tmp_path):
    """It writes who it is once it has the lock, and the second may look before that."""
    path = tmp_path / LOCK_FILE
    left = {"process": 2**22 + 1, "host": socket.gethostname(), "since": "2026"}
    path.write_text(json.dumps(left))
    with path.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        writes = threading.Timer(0.2, lambda: path.write_text(json.dumps({**left, "process": os.getppid()})))
        writes.start()
        with pytest.raises(ConfigError, match=f"by process {os.getppid()} on"), locked(tmp_path):
            pytest.fail("it is taken")
        writes.join()


@pytest.mark.parametrize("content", ["", "[]", "{", "\0\0"])
def test_a_torn_lock_is_no_obstacle(tmp_path, content):
    (tmp_path / LOCK_FILE).write_text(content)
    with locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path):
    with pytest.raises(ConfigError, match="cannot be written to"), locked(tmp_path / "nowhere"):
        pass
