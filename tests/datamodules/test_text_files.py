import gzip
import json
import tracemalloc

import pytest

from datamodules import text_files
from datamodules.errors import DataError
from datamodules.text_files import existing_file, format_suffix, json_items, json_objects, numbered_lines


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_lines_are_the_same_however_the_file_is_written(tmp_path, compress, bom, end):
    path = tmp_path / "any.name"
    path.write_bytes(compress(bom + end.join(["é".encode(), b"", "a\u2028b\tc ".encode()])))
    assert list(numbered_lines(path)) == [(1, "é"), (2, ""), (3, "a\u2028b\tc ")]


def test_bytes_that_are_not_utf8_name_their_line(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"fine\ncaf\xe9\n")
    with pytest.raises(DataError, match=r"latin\.txt, line 2: not UTF-8"):
        list(numbered_lines(path))


def test_cut_gzip_file_is_refused(tmp_path):
    path = tmp_path / "cut.gz"
    whole = gzip.compress("\n".join(str(i) for i in range(9999)).encode())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.gz, after line \d+: cannot be read.*is the file whole"):
        list(numbered_lines(path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": 1', r"line 3: broken JSON"),
        ("[1]", r"line 3: a JSON list"),
        (r'{"a": "\ud83d"}', r"line 3: holds half of a surrogate pair"),
    ],
)
def test_broken_json_line_is_named(tmp_path, line, message):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n\n' + line + "\n")
    with pytest.raises(DataError, match=message):
        list(json_objects(path))


def test_json_objects_keep_line_numbers_across_blank_lines(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('\n{"a": 1}\n\t\n{"b": "\\ud83d\\ude00"}')
    assert list(json_objects(path)) == [(2, {"a": 1}), (4, {"b": "😀"})]


ITEMS = [{"a": "é, [}]", "b": [1, {"c": None}]}, {}, [2.5], "x\u2028", {"a": "y" * 100}]


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 4])
def test_a_json_list_is_read_item_by_item(tmp_path, monkeypatch, block, indent):
    monkeypatch.setattr(text_files, "_BLOCK_LENGTH", block)
    path = tmp_path / "x.json"
    for items in (ITEMS, []):
        path.write_text(f" \n{json.dumps(items, indent=indent)}\n\n")
        assert list(json_items(path)) == list(enumerate(items, start=1))


def test_memory_does_not_grow_with_a_json_list(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"text": "y" * 10_000}] * 2_000, indent=1))
    tracemalloc.start()
    assert sum(1 for _ in json_items(path)) == 2_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < path.stat().st_size / 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}', "not one JSON list"),
        ("", "not one JSON list"),
        ('[{"a": 1}, {"a": ', "object 2: broken JSON"),
        ('[{"a": 1}, ]', "object 2: broken JSON"),
        ('[{"a": 1} {"a": 2}]', "after object 1: broken JSON .*comma"),
        ('[{"a": 1}', "after object 1: broken JSON .*comma"),
        ('[{"a": 1}] []', "more follows after the list's end"),
        (r'[{"a": "\ud83d"}]', "object 1: holds half of a surrogate pair"),
        ("[" * 100_000, "object 1: JSON that is nested too deep"),
    ],
)
def test_a_broken_json_list(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        list(json_items(path))


def test_a_broken_item_is_not_looked_for_in_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "_BLOCK_LENGTH", 10)
    monkeypatch.setattr(text_files, "_LONGEST_VALUE", 100)
    path = tmp_path / "x.json"
    path.write_bytes(b'[{"a" 1},\n' + b'{"a": 1},\n' * 100 + b"\xff")
    with pytest.raises(DataError, match="object 1: broken JSON"):  # and not of the byte at the end
        list(json_items(path))


def test_missing_file_and_folder_are_told_apart(tmp_path):
    with pytest.raises(DataError, match=r"question file .*nq\.csv does not exist"):
        existing_file(tmp_path / "nq.csv", "question file")
    with pytest.raises(DataError, match=r"question file .* is a folder"):
        existing_file(tmp_path, "question file")


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.CSV", ".csv"), ("nq.qa.csv.gz", ".csv"), ("a.jsonl.GZ", ".jsonl"), ("tsv", ""), ("csv.gz", "")],
)
def test_format_suffix(tmp_path, name, suffix):
    assert format_suffix(tmp_path / name) == suffix
