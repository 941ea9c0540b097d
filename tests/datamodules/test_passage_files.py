import csv
import gzip
import itertools
import json

import pytest

from datamodules.batches import Passage
from datamodules.errors import DataError
from datamodules.passage_files import read_passages

PASSAGES = [
    Passage("1", "Aaron", "Aaron was a prophet."),
    Passage("2", '"Heroes" (album)', 'He said "so" and "" left; it\'s true.'),
    Passage("3", 'The "A" team', '"Quoted" at the start'),
]


@pytest.fixture
def write(tmp_path):
    """Writes text to a file of some name and gives its path."""

    def write_text(name, text):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write_text


@pytest.mark.parametrize("name", ["psgs.tsv", "psgs.tsv.gz", "psgs"])
@pytest.mark.parametrize("columns", list(itertools.permutations(["id", "text", "title"])))
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_tsv_quoted_as_csv_in_any_column_order(tmp_path, name, columns, quoting):
    opener = gzip.open if name.endswith(".gz") else open
    with opener(tmp_path / name, "wt", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", quoting=quoting)
        writer.writeheader()
        writer.writerows(vars(passage) for passage in PASSAGES)
    assert list(read_passages(tmp_path / name)) == PASSAGES


def test_tsv_of_bare_text_keeps_its_quotation_marks(write):
    lines = ["id\ttext\ttitle", *(f"{p.id}\t{p.text}\t{p.title}" for p in PASSAGES)]
    lines += ['4\t"opened, never closed\tTitle', '5\t"both\topen"']
    assert list(read_passages(write("p.tsv", "\n".join(lines)))) == [
        *PASSAGES,
        Passage("4", "Title", '"opened, never closed'),
        Passage("5", 'open"', '"both'),
    ]


def test_tsv_details(write):
    path = write("p.tsv", "\ufeff\r\nextra\tTITLE\tid\ttext\r\nx\t\t7\t  some text \r\n\r\n")
    assert list(read_passages(path)) == [Passage("7", "", "some text")]


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz", "p.json"])
def test_jsonl_defaults(write, name):
    path = write(
        name,
        '{"text": " a "}\n\n{"id": 9, "title": "T", "text": "b"}\n{"id": "x", "title": null, "text": "c"}',
    )
    assert list(read_passages(path)) == [Passage("1", "", "a"), Passage("9", "T", "b"), Passage("x", "", "c")]


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("p.tsv", "2\tonly two", r"2 tab-separated columns where the header has 3"),
        ("p.tsv", "2\tmore\tthan\tthree", r"4 tab-separated columns"),
        ("p.tsv", "2\t \tTitle", "the passage has no text"),
        ("p.tsv", '2\t""\tTitle', "the passage has no text"),
        ("p.tsv", "\t\t", "the passage has no text"),
        ("p.tsv", "\ttext\tTitle", "the passage has no id"),
        ("p.jsonl", '{"id": "2"', "broken JSON"),
        ("p.jsonl", '{"id": "2", "title": "T"}', "the passage has no text"),
        ("p.jsonl", '{"id": "2", "text": ""}', "the passage has no text"),
        ("p.jsonl", '{"id": 1.5, "text": "x"}', '"id" is 1.5'),
        ("p.jsonl", '{"id": "2", "text": ["x"]}', '"text" is '),
    ],
)
def test_broken_line_is_named_after_the_good_ones(write, name, line, message):
    good = json.dumps(vars(PASSAGES[0])) if name == "p.jsonl" else "1\tAaron was a prophet.\tAaron"
    header = "" if name == "p.jsonl" else "id\ttext\ttitle"
    passages = read_passages(write(name, f"{header}\n{good}\n{line}\n"))
    assert next(passages) == PASSAGES[0]
    with pytest.raises(DataError, match=rf"p\.\w+, line 3: .*{message}"):
        next(passages)


def test_missing_column_and_those_found_are_named(write):
    with pytest.raises(
        DataError, match=r"p\.tsv, line 1: .* lacks the column title \(found: id, passage, text\)"
    ):
        list(read_passages(write("p.tsv", "id\tpassage\ttext\n1\tx\ty\n")))


@pytest.mark.parametrize(("name", "text"), [("p.tsv", "id\ttext\ttitle\n\n"), ("p.jsonl", "\n")])
def test_file_without_passages_is_refused(write, name, text):
    with pytest.raises(DataError, match="no passage in the whole file"):
        list(read_passages(write(name, text)))


def test_missing_file_and_unknown_format_are_noticed_before_reading(tmp_path, write):
    with pytest.raises(DataError, match=r"passage file .*psgs_w100\.tsv does not exist"):
        read_passages(tmp_path / "psgs_w100.tsv")
    with pytest.raises(DataError, match="choose one of: auto, tsv, jsonl"):
        read_passages(write("p.tsv", ""), "csv")
    with pytest.raises(DataError, match="choose one of: tsv, jsonl"):
        read_passages(write("p.csv", "id,text,title\n"))
