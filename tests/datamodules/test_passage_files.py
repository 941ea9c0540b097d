import csv
import gzip
import itertools
import json
import struct

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.batches import Passage
from datamodules.errors import DataError
from datamodules.passage_files import read_passages
from tests.saved_dataset import SQUAD, save_dataset

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
        '{"id": 9, "title": "T", "text": " b "}\n\n{"id": "x", "title": null, "text": "c"}',
    )
    assert list(read_passages(path)) == [Passage("9", "T", "b"), Passage("x", "", "c")]
    path = write(name, '{"text": "a"}\n\n{"text": "b"}')
    assert list(read_passages(path)) == [Passage("1", "", "a"), Passage("3", "", "b")]


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
        ("p.jsonl", '{"id": "2", "title": "T"}', "no text: it has the keys"),
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
        DataError, match=r"p\.tsv, line 1: .* lacks the column id or _id or .* \(found: number, text\)"
    ):
        list(read_passages(write("p.tsv", "number\ttext\n1\ty\n")))


@pytest.mark.parametrize(("name", "text"), [("p.tsv", "id\ttext\ttitle\n\n"), ("p.jsonl", "\n")])
def test_file_without_passages_is_refused(write, name, text):
    with pytest.raises(DataError, match="no passage in the whole file"):
        list(read_passages(write(name, text)))


def test_missing_file_and_unknown_format_are_noticed_before_reading(tmp_path, write):
    with pytest.raises(DataError, match=r"passage file .*psgs_w100\.tsv does not exist"):
        read_passages(tmp_path / "psgs_w100.tsv")
    with pytest.raises(DataError, match="choose one of: auto, tsv, jsonl"):
        read_passages(write("p.tsv", ""), "csv")
    with pytest.raises(DataError, match="choose one of: tsv, jsonl, json, squad"):
        read_passages(write("p.csv", "id,text,title\n"))


# ---- formats that people have ----

DOCUMENTS = [Passage("MED-10", "Statins", "Statins and cancer."), Passage("MED-14", "", "No title here.")]


def test_beir_corpus_keeps_its_ids(write):
    records = [
        {"_id": p.id, "title": p.title, "text": p.text, "metadata": {"url": "http://x"}} for p in DOCUMENTS
    ]
    path = write("corpus.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    assert list(read_passages(path)) == DOCUMENTS


def test_pyserini_collection(write):
    path = write("docs.jsonl", '{"id": "doc1", "contents": "Statins and cancer."}\n')
    assert list(read_passages(path)) == [Passage("doc1", "", "Statins and cancer.")]


def test_one_json_list(write):
    records = [{"docid": p.id, "title": p.title, "passage": p.text} for p in DOCUMENTS]
    assert list(read_passages(write("passages.json", json.dumps(records, indent=1)))) == DOCUMENTS


def test_squad_paragraphs(write):
    assert list(read_passages(write("train-v2.0.json", json.dumps(SQUAD, indent=1)))) == [
        Passage("0-0", "Statins", "Statins lower cholesterol."),
        Passage("1-0", "Beyoncé", "She rose to fame in the late 1990s."),
        Passage("1-1", "Beyoncé", "She was born in Houston."),
    ]


def test_parquet_and_saved_dataset(tmp_path):
    columns = {"_id": [p.id for p in DOCUMENTS], "text": [p.text for p in DOCUMENTS]}
    columns["title"] = [p.title or None for p in DOCUMENTS]
    table = pa.table({**columns, "embeddings": [[0.5] * 8] * 2})
    pq.write_table(table, tmp_path / "corpus.parquet")
    assert list(read_passages(tmp_path / "corpus.parquet")) == DOCUMENTS
    assert (
        list(read_passages(save_dataset(tmp_path / "corpus", table.slice(0, 1), table.slice(1)))) == DOCUMENTS
    )


def test_a_folder_of_splits_or_of_something_else(tmp_path):
    table = pa.table({"text": ["x"]})
    for split in ("train", "test"):
        save_dataset(tmp_path / "sets" / split, table)
    (tmp_path / "sets" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(DataError, match="a data set with the splits test, train; give one of their folders"):
        read_passages(tmp_path / "sets")
    (tmp_path / "beir").mkdir()
    (tmp_path / "beir" / "queries.jsonl").write_text("")
    with pytest.raises(DataError, match=r"BEIR's format; give .* its corpus\.jsonl"):
        read_passages(tmp_path / "beir")
    with pytest.raises(DataError, match="is a folder; give the path of a readable file"):
        read_passages(tmp_path)


def test_a_damaged_saved_dataset_is_refused(tmp_path):
    """A text that ends beyond the file would crash the process."""
    folder = save_dataset(tmp_path / "set", pa.table({"id": ["a", "b"], "text": ["seven s", "more"]}))
    [file] = folder.glob("*.arrow")
    ends, beyond = struct.pack("<3i", 0, 7, 11), struct.pack("<3i", 0, 1 << 30, (1 << 30) + 4)
    content = file.read_bytes()
    assert content.count(ends) == 1
    file.write_bytes(content.replace(ends, beyond))
    with pytest.raises(DataError, match=r"set: cannot be read as a saved data set .*is the folder whole\?"):
        list(read_passages(folder))


def test_a_saved_dataset_of_chosen_rows_is_refused(tmp_path):
    path = save_dataset(tmp_path / "corpus", pa.table({"text": ["x"]}))
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, "_indices_data_files": [{"filename": "i.arrow"}]}))
    with pytest.raises(DataError, match="flatten_indices"):
        list(read_passages(path))
    (path / "state.json").write_text("{}")
    with pytest.raises(DataError, match="cannot be read as a saved data set"):
        list(read_passages(path))


def test_numbers_never_stand_in_for_some_of_the_ids(write):
    path = write("p.jsonl", '{"id": "2", "text": "a"}\n{"text": "b"}\n')
    with pytest.raises(DataError, match=r"line 2: the passage has no id, and the first one has one"):
        list(read_passages(path))
    path = write("p.jsonl", '{"text": "a"}\n{"id": "1", "text": "b"}\n')
    with pytest.raises(DataError, match=r"line 2: the passage has an id, and the first one has none"):
        list(read_passages(path))
    path = write("p.jsonl", '{"_id": "2", "text": "a"}\n{"text": "b"}\n')
    with pytest.raises(DataError, match=r'line 2: no "_id"; every row of a set of BEIR has one'):
        list(read_passages(path))


def test_a_missing_key_names_those_found_and_those_expected(write):
    path = write("p.jsonl", '{"_id": "1", "headline": "T", "abstract": "long"}\n')
    message = r'line 1: no text: it has the keys "_id", "headline", "abstract"; expected "text" or "contents"'
    with pytest.raises(DataError, match=message):
        list(read_passages(path))
