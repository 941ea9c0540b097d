"""A file is there whole, or as it was before."""

import os
import subprocess
import sys
import time

import pytest

from datamodules.durable_files import cannot_write, durably, partial_beside, write_durably
from datamodules.errors import DataError


def test_what_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    write_durably(path, "old")
    with pytest.raises(OSError, match="No space"), durably(path) as partial:
        fail_half_way(partial)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "old")]


def fail_half_way(path) -> None:
    path.write_text("half")
    raise OSError(28, "No space left on device")


def test_the_one_before_is_kept_where_it_is_wanted(tmp_path):
    for text in ("1", "2", "3"):
        with durably(tmp_path / "last", tmp_path / "previous") as partial:
            partial.write_text(text)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"last": "3", "previous": "2"}


def test_what_a_killed_process_had_begun_goes_with_the_next(tmp_path):
    path = tmp_path / "file"
    code = (
        "import sys, os; from pathlib import Path; from datamodules.durable_files import partial_beside;"
        "partial_beside(Path(sys.argv[1])).write_text('half')"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    of_this_process = partial_beside(path)
    of_this_process.write_text("not yet whole")
    of_another_machine = tmp_path / f".file.another-machine.{2**22 + 1}.0.partial"
    of_another_machine.write_text("who knows")
    old = tmp_path / f".file.another-machine.{2**22 + 1}.1.partial"
    old.mkdir()
    (old / "part").touch()
    for path_of_old in (old / "part", old):
        os.utime(path_of_old, (time.time() - 90_000,) * 2)
    *name, _, _ = of_this_process.name.split(".")
    of_an_earlier_one_of_the_same_number = tmp_path / ".".join([*name, "0", "partial"])
    of_an_earlier_one_of_the_same_number.write_text("half")
    assert len(list(tmp_path.iterdir())) == 5
    write_durably(path, "whole")
    assert set(tmp_path.iterdir()) == {path, of_this_process, of_another_machine}


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path):
    (tmp_path / "no-folder").touch()
    with pytest.raises(DataError, match=r"no-folder/file cannot be written \(File exists\)"):
        write_durably(tmp_path / "no-folder" / "file", "text")


@pytest.mark.parametrize(
    "said",
    [
        "basic_ios::clear: iostream error",
        "[enforce fail at inline_container.cc:864] . PytorchStreamWriter failed writing file data/3",
        "[enforce fail at inline_container.cc:664] . unexpected pos 640 vs 534",
        "1000 requested and 512 written",
    ],
)
def test_what_libraries_make_of_a_full_disk_is_said_in_words(tmp_path, said):
    assert "for want of space" in str(cannot_write(tmp_path / "last.ckpt", RuntimeError(said)))
