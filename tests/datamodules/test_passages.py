import copy
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datamodules import passages as module
from datamodules.batches import Passage
from datamodules.errors import DataError
from datamodules.passages import KnowledgeBase, build_knowledge_base, knowledge_base_from_file

PASSAGES = [Passage(f"id{i}", f"Title {i}", f"text é {i} " * (i % 5 + 1)) for i in range(23)]


@pytest.fixture
def small_batches(monkeypatch):
    """Many record batches from few passages."""
    monkeypatch.setattr(module, "_ROWS_PER_BATCH", 5)


@pytest.fixture
def knowledge_base(tmp_path, small_batches):
    with_folder = tmp_path / "made" / "kb.arrow"
    knowledge_base = build_knowledge_base(iter(PASSAGES), with_folder)
    yield knowledge_base
    knowledge_base.close()


def interrupted(error, after):
    yield from PASSAGES[:after]
    raise error


def test_every_row_reads_back_across_batches(knowledge_base):
    assert len(knowledge_base) == 23
    assert [knowledge_base[i] for i in range(23)] == PASSAGES
    assert list(knowledge_base) == PASSAGES
    assert [knowledge_base[-i] for i in range(1, 24)] == PASSAGES[::-1]


def test_slices_select_and_chunks_equal_those_of_a_list(knowledge_base):
    rows = random.Random(0).choices(range(23), k=50)
    assert knowledge_base.select(np.array(rows)) == [PASSAGES[row] for row in rows]
    assert knowledge_base[3:17] == PASSAGES[3:17]
    assert knowledge_base[::-4] == PASSAGES[::-4]
    chunks = list(knowledge_base.chunks(10))
    assert [len(chunk) for chunk in chunks] == [10, 10, 3]
    assert [passage for chunk in chunks for passage in chunk] == PASSAGES


def test_ids_that_are_repeated_are_refused(tmp_path, small_batches):
    repeated = [*PASSAGES[:17], Passage("id3", "Another title", "other text"), *PASSAGES[17:]]
    with pytest.raises(DataError, match=r"passages 4 and 18 \(counted from 1.*\) have the same id 'id3'"):
        build_knowledge_base(repeated, tmp_path / "kb.arrow")
    assert list(tmp_path.iterdir()) == [], "nothing is left"
    file = tmp_path / "passages.tsv"
    file.write_text("id\ttitle\ttext\na\tA\tone text\nb\tB\tsome\na\tC\tother text\n")
    with pytest.raises(DataError, match=r"passages 1 and 3 .* the same id 'a'"):
        knowledge_base_from_file(file, tmp_path / "cache")


def test_ids_whose_hashes_are_equal_by_chance_are_not_repeated(tmp_path, small_batches, monkeypatch):
    monkeypatch.setattr(module, "hash", lambda id: len(id), raising=False)
    assert list(build_knowledge_base(PASSAGES, tmp_path / "kb.arrow")) == PASSAGES
    with pytest.raises(DataError, match=r"passages 2 and 24 .* the same id 'id1'"):
        build_knowledge_base([*PASSAGES, PASSAGES[1]], tmp_path / "again.arrow")


def test_lines_without_ids_are_numbered(tmp_path):
    file = tmp_path / "passages.jsonl"
    file.write_text('{"text": "the same"}\n{"text": "the same"}\n')
    assert [passage.id for passage in knowledge_base_from_file(file, tmp_path)] == ["1", "2"]


def test_passages_are_found_by_id(knowledge_base):
    ids = ["id17", "id0", "id22", "id0"]
    assert knowledge_base.find(iter(ids)) == {i: PASSAGES[int(i[2:])] for i in ids}
    assert knowledge_base.find([]) == {}
    with pytest.raises(DataError, match=r"kb\.arrow: no passage has the id 'id23'"):
        knowledge_base.find(["id1", "id23"])


@pytest.mark.parametrize("row", [23, -24, 10**9])
def test_rows_out_of_range_are_refused(knowledge_base, row):
    with pytest.raises(IndexError, match=f"no row {row} among the 23 passages"):
        knowledge_base[row]


def test_select_takes_minus_one_for_a_failed_search_not_for_the_last_row(knowledge_base):
    with pytest.raises(IndexError, match="no row -1"):
        knowledge_base.select([0, -1])


def test_chunks_below_one_are_refused(knowledge_base):
    with pytest.raises(DataError, match="chunks of 0"):
        list(knowledge_base.chunks(0))


def test_pickle_passes_the_path_on(knowledge_base):
    opened = pickle.loads(pickle.dumps(knowledge_base))
    assert list(opened) == list(copy.copy(knowledge_base)) == PASSAGES
    assert len(pickle.dumps(knowledge_base)) < 1000


def test_closed_knowledge_base_says_so(tmp_path):
    knowledge_base = build_knowledge_base(PASSAGES, tmp_path / "kb.arrow")
    knowledge_base.close()
    with pytest.raises(ValueError, match="is closed"):
        knowledge_base[0]


def test_fingerprint_depends_on_content_alone(tmp_path, knowledge_base, monkeypatch):
    monkeypatch.setattr(module, "_ROWS_PER_BATCH", 7)
    again = build_knowledge_base(PASSAGES, tmp_path / "again.arrow", source="elsewhere")
    assert again.fingerprint == knowledge_base.fingerprint
    assert len(again.fingerprint) == 64
    shifted = [Passage("ab", "c", "d")], [Passage("a", "bc", "d")], [Passage("a", "b", "cd")], PASSAGES[::-1]
    prints = {build_knowledge_base(rows, tmp_path / "x.arrow").fingerprint for rows in shifted}
    assert len(prints | {again.fingerprint}) == 5


def test_progress_counts_the_passages_written(tmp_path, small_batches):
    seen = []
    build_knowledge_base(PASSAGES, tmp_path / "kb.arrow", progress=seen.append)
    assert seen == [5, 10, 15, 20, 23]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("line 12"), RuntimeError()])
def test_interrupted_build_leaves_nothing(tmp_path, small_batches, error):
    with pytest.raises(type(error)):
        build_knowledge_base(interrupted(error, after=12), tmp_path / "kb.arrow")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_rebuild_leaves_the_old_file(tmp_path, small_batches):
    build_knowledge_base(PASSAGES, tmp_path / "kb.arrow")
    with pytest.raises(KeyboardInterrupt):
        build_knowledge_base(interrupted(KeyboardInterrupt(), after=12), tmp_path / "kb.arrow")
    assert [path.name for path in tmp_path.iterdir()] == ["kb.arrow"]
    assert list(KnowledgeBase(tmp_path / "kb.arrow")) == PASSAGES


def test_no_passage_is_refused(tmp_path):
    with pytest.raises(DataError, match="at least one passage"):
        build_knowledge_base([], tmp_path / "kb.arrow")
    assert list(tmp_path.iterdir()) == []


def test_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"kb\.arrow cannot be written"):
        build_knowledge_base(PASSAGES, tmp_path / "file" / "kb.arrow")


@pytest.mark.parametrize("content", [b"", b"not Arrow at all"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "kb.arrow"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"kb\.arrow is damaged: it .*; delete the file"):
        KnowledgeBase(path)


def test_other_arrow_files_and_missing_ones_are_refused(tmp_path):
    path = tmp_path / "other.arrow"
    table = pa.table({"id": ["1"], "title": [""], "text": ["x"]})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match="ends without the checksums that were written behind it"):
        KnowledgeBase(path)
    with pytest.raises(DataError, match=r"knowledge base .*kb\.arrow does not exist"):
        KnowledgeBase(tmp_path / "kb.arrow")


# ----------------------------------------------------------------------------------------------- from file
@pytest.fixture
def passage_file(tmp_path) -> Path:
    path = tmp_path / "p.tsv"
    path.write_text("id\ttext\ttitle\n1\tone\tOne\n2\ttwo\tTwo\n")
    return path


def built_file(cache_dir) -> Path:
    (only,) = cache_dir.iterdir()
    return only


def test_unchanged_file_is_built_once(tmp_path, passage_file):
    first = knowledge_base_from_file(passage_file, tmp_path / "cache")
    inode = built_file(tmp_path / "cache").stat().st_ino
    again = knowledge_base_from_file(str(passage_file), str(tmp_path / "cache"))
    assert list(again) == list(first) == [Passage("1", "One", "one"), Passage("2", "Two", "two")]
    assert built_file(tmp_path / "cache").stat().st_ino == inode


@pytest.mark.parametrize("change", ["size", "mtime", "version", "damage"])
def test_changed_file_is_built_anew_in_place_of_the_old(tmp_path, passage_file, monkeypatch, change):
    old = knowledge_base_from_file(passage_file, tmp_path / "cache")
    status = passage_file.stat()
    inode = built_file(tmp_path / "cache").stat().st_ino
    match change:
        case "size":
            passage_file.write_text(passage_file.read_text() + "3\tthree\tThree\n")
            os.utime(passage_file, ns=(status.st_atime_ns, status.st_mtime_ns))
        case "mtime":
            os.utime(passage_file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        case "version":
            monkeypatch.setattr(module, "_VERSION", b"next")
        case "damage":
            # Not truncated in place: `old` still maps those bytes.
            built_file(tmp_path / "cache").unlink()
            next_file = tmp_path / "cache" / Path(old.path).name
            next_file.write_bytes(b"damaged")
            inode = next_file.stat().st_ino
    new = knowledge_base_from_file(passage_file, tmp_path / "cache")
    assert len(new) == (3 if change == "size" else 2)
    assert built_file(tmp_path / "cache").stat().st_ino != inode
    assert len(old) == 2
    assert old[1].title == "Two"


def test_broken_passage_file_leaves_nothing(tmp_path, passage_file):
    passage_file.write_text(passage_file.read_text() + "3\t\tThree\n")
    with pytest.raises(DataError, match=r"p\.tsv, line 4"):
        knowledge_base_from_file(passage_file, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
