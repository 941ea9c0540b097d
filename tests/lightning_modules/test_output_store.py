"""What is put is found again, by this process and by others, also after kills and damage."""

import logging
import os

import numpy as np
import pyarrow as pa
import pytest

from datamodules.errors import DataError
from lightning_modules import output_store
from lightning_modules.output_store import OutputStore, key_of

KEYS = [key_of(str(i)) for i in range(6)]


def arrays(seed):
    random = np.random.default_rng(seed)
    return {name: random.random(random.integers(0, 9)).astype(np.float32) for name in ("a", "b")}


def store(folder, **settings):
    return OutputStore(folder, ("a", "b"), **settings)


def check(found, seed):
    for name, array in arrays(seed).items():
        assert np.array_equal(found[name], array)


def test_keys_keep_texts_apart():
    assert key_of("ab", "c") != key_of("a", "bc")
    assert key_of("ab", "c") == key_of("ab", "c")
    assert len(key_of("\ud83d")) == 16, "half a character, which no UTF-8 has"


def test_what_is_put_is_found_at_once_and_by_the_next_process(tmp_path):
    first = store(tmp_path)
    first.put({KEYS[i]: arrays(i) for i in (0, 1)})
    first.put({KEYS[2]: arrays(2)})
    for opened in (first, store(tmp_path)):  # nothing was closed: as after a kill
        assert len(opened) == 3
        assert KEYS[3] not in opened
        for i in (0, 1, 2):
            assert KEYS[i] in opened
            check(opened[KEYS[i]], i)


def test_two_processes_write_side_by_side(tmp_path):
    one, two = store(tmp_path), store(tmp_path)
    one.put({KEYS[0]: arrays(0)})
    two.put({KEYS[1]: arrays(1), KEYS[0]: arrays(0)})
    one.put({KEYS[2]: arrays(2)})
    assert KEYS[1] not in one, "until it opens the folder again"
    third = store(tmp_path)
    for i in range(3):
        check(third[KEYS[i]], i)


def test_a_process_sees_what_other_runs_wrote_and_itself_but_no_other_of_its_run(tmp_path):
    """Else it would depend on the moment of a kill what a run that goes on finds."""
    store(tmp_path).put({KEYS[0]: arrays(0)})
    for number in (0, 1):
        store(tmp_path, writer=("20260101-seed0", number)).put({KEYS[1 + number]: arrays(1 + number)})
    store(tmp_path, writer=("20260101-seed0-2", 1)).put({KEYS[3]: arrays(3)})
    again = store(tmp_path, writer=("20260101-seed0", 1))
    assert [key in again for key in KEYS[:4]] == [True, False, True, True]


def test_a_torn_end_loses_no_more_than_itself(tmp_path, caplog):
    first = store(tmp_path)
    for i in range(4):
        first.put({KEYS[i]: arrays(i)})
    first.close()
    (path,) = tmp_path.glob("*.arrows")
    whole, sums = path.read_bytes(), path.with_suffix(".sums")
    for size in range(len(whole) - 1, 0, -97):
        path.write_bytes(whole[:size])
        opened = store(tmp_path)
        for i in range(len(opened)):
            check(opened[KEYS[i]], i)
    assert "read anew" in caplog.text
    path.write_bytes(whole)
    caplog.clear()
    sums.write_text(sums.read_text()[:-9])
    assert len(store(tmp_path)) == 3
    assert not caplog.text, "a kill tears the last line, which is no damage"


def test_no_altered_byte_is_trusted(tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    first = store(tmp_path)
    first.put({KEYS[i]: arrays(i) for i in range(4)})
    first.close()
    (data,) = tmp_path.glob("*.arrows")
    for path in (data, data.with_suffix(".sums")):
        whole = path.read_bytes()
        for position in range(0, len(whole), 7):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
            opened = store(tmp_path)
            for i in range(4):
                if KEYS[i] in opened:
                    check(opened[KEYS[i]], i)
        path.write_bytes(whole)


def test_a_damaged_batch_costs_no_other(tmp_path):
    first = store(tmp_path)
    for i in range(4):
        first.put({KEYS[i]: arrays(i)})
    first.close()
    (path,) = tmp_path.glob("*.arrows")
    start, length, _ = path.with_suffix(".sums").read_text().splitlines()[1].split(" ")
    whole = bytearray(path.read_bytes())
    whole[int(start) + int(length) // 2] ^= 1
    path.write_bytes(bytes(whole))
    opened = store(tmp_path)
    assert [KEYS[i] in opened for i in range(4)] == [True, False, True, True]


def test_arrow_itself_reads_the_file(tmp_path):
    first = store(tmp_path)
    first.put({KEYS[i]: arrays(i) for i in range(2)})
    first.put({KEYS[2]: arrays(2)})
    first.close()
    (path,) = tmp_path.glob("*.arrows")
    table = pa.ipc.open_stream(path.read_bytes()).read_all()
    assert table.column("key").to_pylist() == KEYS[:3]
    check({name: np.array(table.column(name)[2].as_py(), np.float32) for name in ("a", "b")}, 2)


def test_the_oldest_files_go_when_there_is_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(output_store, "FILE_BYTES", 2000)
    opened = store(tmp_path, max_bytes=8000)
    for i in range(60):
        opened.put({key_of("many", str(i)): {"a": np.zeros(200, np.float32), "b": np.zeros(0, np.float32)}})
    opened.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 8000 + 3000
    again = store(tmp_path)
    assert 0 < len(again) < 60
    assert key_of("many", "59") in again
    assert key_of("many", "0") not in again
    assert opened[key_of("many", "0")]["a"].shape == (200,), "whoever has it keeps it"


LARGE = {"a": np.zeros(200, np.float32), "b": np.zeros(0, np.float32)}


def fill(opened, name, count):
    for i in range(count):
        opened.put({key_of(name, str(i)): LARGE})


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*.arrows"))


def test_the_bound_is_of_all_kinds_together(tmp_path):
    """Of each kind half a bound is kept, one after the other: the oldest kind goes."""
    for number, kind in enumerate(("first", "second", "third")):
        opened = store(tmp_path / kind, max_bytes=8000, bounded=tmp_path)
        fill(opened, kind, 5)
        opened.close()
        assert size_of(tmp_path) <= 8000 + 2000, "a file ends with what takes it over its size"
        for path in (tmp_path / kind).glob("*.arrows"):
            os.utime(path, (number, number))  # a file system may tell times in steps
    kept = [len(store(tmp_path / kind)) for kind in ("first", "second", "third")]
    assert kept[0] < kept[2] == 5
    alone = store(tmp_path / "third", max_bytes=1000)
    alone.put({KEYS[0]: LARGE})
    assert [len(store(tmp_path / kind)) for kind in ("second", "third")] == [kept[1], 1], "of one kind alone"


def test_a_file_that_another_run_writes_is_left_to_it(tmp_path):
    """Deleted, it would lose all that is still written to it, and the run would not know."""
    writing = store(tmp_path / "writing", max_bytes=80_000, bounded=tmp_path)
    fill(writing, "early", 2)
    (path,) = (tmp_path / "writing").glob("*.arrows")
    os.utime(path, (0, 0))
    other = store(tmp_path / "other", max_bytes=2000, bounded=tmp_path)
    fill(other, "other", 4)
    fill(writing, "late", 1)
    again = store(tmp_path / "writing")
    assert len(again) == 3
    writing.close()
    os.utime(path, (0, 0))
    fill(other, "more", 2)
    assert not path.exists(), "once it is closed it is like any other"
    assert all(sums.with_suffix(".arrows").exists() for sums in tmp_path.rglob("*.sums"))


def test_a_file_that_was_deleted_while_it_is_written_leaves_nothing_behind(tmp_path):
    """As somebody does who empties the cache, or where a file system has no locks."""
    writing = store(tmp_path)
    writing.put({KEYS[0]: arrays(0)})
    for path in (*tmp_path.glob("*.arrows"), *tmp_path.glob("*.sums")):
        path.unlink()
    writing.put({KEYS[1]: arrays(1)})
    check(writing[KEYS[0]], 0)
    check(writing[KEYS[1]], 1)
    writing.close()
    assert [path.name for path in tmp_path.iterdir()] == ["about.json"]
    writing.put({KEYS[2]: arrays(2)})
    assert len(store(tmp_path)) == 1


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="read_once=False"):
        store(tmp_path / "file").put({KEYS[0]: arrays(0)})
