import gzip

import pytest

from datamodules.errors import DataError
from datamodules.text_files import existing_file, format_suffix, json_objects, numbered_lines


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
