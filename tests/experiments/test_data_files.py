"""Published data behind an experiment's settings: fetched, verified, and what is said where that fails."""

import gzip
import hashlib
import json
from dataclasses import replace

import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules import sources
from datamodules.checksums import write_record
from experiments import download, run
from experiments.config import DataConfig, load_config
from experiments.data_files import (
    data_files,
    data_settings,
    gold_settings,
    question_origin,
    read_data_split,
)
from experiments.models import hub_models, models_used
from tests.experiments.test_run import nothing_left, quickstart
from tests.file_server import serve_files
from tests.model_hub import model_files, serve_models
from tests.tiny_models import save_tiny_models, toy_passages, toy_questions
from tests.toy_files import toy_settings

SIZES = {"train": 8, "validation": 4, "test": 5}


def questions_csv(size: int) -> bytes:
    questions = toy_questions()[:size]
    return "".join(f"{question.text}\t{list(question.answers)}\n" for question in questions).encode()


def gold_titles_json(size: int) -> bytes:
    """Of the questions but the first."""
    asked = [{"question": q.text.upper(), "title": q.title} for q in toy_questions()[1:size]]
    return gzip.compress(json.dumps({"data": asked}).encode())


def passages_tsv() -> bytes:
    rows = [f"{i}\t{p.text}\t{p.title}\n" for i, p in enumerate(toy_passages(), start=1)]
    return ("id\ttext\ttitle\n" + "".join(rows)).encode()


@pytest.fixture
def server(monkeypatch):
    """NQ and Wikipedia in small, under the published names, on a server of the test's own."""
    packed = gzip.compress(passages_tsv())
    names = {"train": "nq-train.qa.csv", "validation": "nq-dev.qa.csv", "test": "nq-test.qa.csv"}
    files = {names[split]: questions_csv(size) for split, size in SIZES.items()}
    files["nq-dev_gold_info.json.gz"] = gold_titles_json(SIZES["validation"])
    with serve_files(**files, **{"psgs_w100.tsv.gz": packed}) as served:
        parts = {"train": ((8, 4), 0), "validation": ((8, 4), 1), "test": ((5,), 0)}
        splits = [
            replace(
                split,
                dpr=replace(split.dpr, url=f"{served.url}/{split.dpr.name}"),
                hub=replace(split.hub, checksum=None),
                hub_sizes=parts[split.name][0],
                hub_index=parts[split.name][1],
            )
            for split in sources.QUESTION_SPLITS
            if split.dataset == "nq"
        ]
        file = replace(
            sources.PASSAGE_SETS[0].file,
            url=f"{served.url}/psgs_w100.tsv.gz",
            checksum=f"md5:{hashlib.md5(packed).hexdigest()}",
        )
        titles = sources.GOLD_TITLES["nq"]
        titles = replace(titles, url=f"{served.url}/{titles.name}")
        monkeypatch.setattr(sources, "GOLD_TITLES", {"nq": titles})
        monkeypatch.setattr(sources, "QUESTION_SPLITS", tuple(splits))
        monkeypatch.setattr(sources, "PASSAGE_SETS", (sources.PassageSet(file, len(toy_passages())),))
        yield served


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The models that the paper's NQ experiments name, tiny, on a hub of the test's own."""
    with serve_models(str(tmp_path / "cache"), monkeypatch) as served:
        folders = save_tiny_models(tmp_path / "published")
        config = load_config("offshelf_nq")
        for folder, name in zip(folders, (config.reader.name, config.retriever.name), strict=True):
            repository, _, commit = name.partition("@")
            served.add(repository, commit, model_files(folder))
        yield served


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def arguments(tmp_path, root):
    """A run of seconds on the published names."""
    settings = toy_settings(tmp_path, data__root=root, data__passages="psgs_w100.tsv")
    names = {"train": "nq-train.qa.csv", "validation": "nq-dev.qa.csv", "test": "nq-test.qa.csv"}
    return quickstart({**settings, **{f"data.{split}": name for split, name in names.items()}})


def fetch(root, *names) -> int:
    return download.main([*names, f"data.root={root}", "trainer.progress_bar=false"])


def message(capsys, code) -> str:
    """The one line that a refusal shows."""
    shown = capsys.readouterr()
    assert code == 2
    assert "Traceback" not in shown.out + shown.err
    (line,) = shown.err.strip().splitlines()
    assert line.startswith("error: ")
    return line


# ---- the command ----


def test_an_experiments_files_are_fetched_and_verified(capsys, server, hub, root):
    assert fetch(root, "--exp", "offshelf_nq") == 0
    lines = capsys.readouterr().out.splitlines()
    settings = ["train", "validation", "test", "passages", "gold_titles", "reader", "retriever"]
    assert [line.split()[0] for line in lines] == [*settings, "5"]
    assert "8 questions  sha256 " in lines[0]
    assert "checksum as published" in lines[3]
    assert "titles for 3 questions" in lines[4]
    assert " tiiuae/falcon-rw-1b@e4b9872bb803165eb22f0a867d4e6a64d34fce19 " in lines[5]
    assert lines[-1].startswith("5 files and 2 models, ")
    assert lines[-1].endswith("GB: all there")
    config = load_config("offshelf_nq")
    assert models_used(config) == {"reader": config.reader.name, "retriever": config.retriever.name}
    num_sent = len(hub.sent)
    assert fetch(root, "--exp", "offshelf_nq") == 0
    assert len(server.ranges) == 5, "what is there is not fetched again"
    assert len(hub.sent) == num_sent


def test_models_that_a_run_does_not_need_are_not_fetched(hub):
    def needed(*overrides):
        return hub_models(load_config("offshelf_nq", overrides))

    assert needed() == ["reader", "retriever"]
    assert needed("evaluation.retrieve_only=true") == ["retriever"]
    assert needed("evaluation.closed_book=true") == ["reader"]
    assert needed("init.reader_from=latest:step1_nq", "retriever.name=embedded") == []
    assert needed("reader.name=my/model.gguf", "retriever.name=./here") == []


def test_a_model_that_cannot_be_had(capsys, server, root, hub):
    hub.models.clear()
    line = message(capsys, fetch(root, "--exp", "offshelf_nq"))
    assert "reader tiiuae/falcon-rw-1b@e4b9" in line
    assert "and set reader.name to that folder" in line


def test_data_sets_by_name(capsys, server, root):
    assert fetch(root, "nq") == 0
    assert sorted(path.name for path in root.glob("*.csv")) == [
        "nq-dev.qa.csv",
        "nq-test.qa.csv",
        "nq-train.qa.csv",
    ]
    assert fetch(root, "wikipedia") == 0
    assert (root / "psgs_w100.tsv.gz").is_file()


def test_a_run_without_training_needs_no_training_questions(server, hub, root):
    assert fetch(root, "--exp", "checkpoint_nq") == 0
    assert not (root / "nq-train.qa.csv").exists()


def test_an_embedded_experiment_needs_nothing(capsys, root):
    assert fetch(root, "--exp", "quickstart") == 0
    assert "nothing to fetch" in capsys.readouterr().out


@pytest.mark.parametrize("names", [[], ["squad"], ["nq", "--exp", "offshelf_nq"]])
def test_neither_experiment_nor_data_set(capsys, root, names):
    assert "one or more of: nq, triviaqa, wikipedia" in message(capsys, fetch(root, *names))


def test_without_network_all_files_are_named(capsys, server, root):
    server.files.clear()
    line = message(capsys, download.main(["nq", "wikipedia", f"data.root={root}"]))  # no empty bars either
    assert f"download these 5 files elsewhere and put them into {root}/:" in line
    for name in ("nq-train.qa.csv", "nq-dev_gold_info.json.gz", "psgs_w100.tsv.gz"):
        assert f"{name} from {server.url}/{name}" in line
    assert not list(root.iterdir())


def test_a_file_that_was_changed_in_secret_is_found(capsys, server, root):
    assert fetch(root, "nq") == 0
    path = root / "nq-dev.qa.csv"
    path.write_bytes(path.read_bytes().replace(b"Lima", b"lima"))
    capsys.readouterr()
    code = fetch(root, "nq")
    assert "nq-dev.qa.csv: its sha256 is" in message(capsys, code)


def test_an_unpacked_copy_is_taken_as_it_is(capsys, server, root):
    root.mkdir()
    (root / "psgs_w100.tsv").write_bytes(passages_tsv())
    assert fetch(root, "wikipedia") == 0
    assert server.ranges == []
    assert "counted when a run first reads them" in capsys.readouterr().out


# ---- runs ----


def test_a_run_fetches_what_it_needs(capsys, server, hub, arguments, root):
    config = load_config("offshelf_nq")
    models = [f"reader.name={config.reader.name}", f"retriever.name={config.retriever.name}"]
    assert run.main([*arguments, *models, "trainer.max_steps=1", "trainer.progress_bar=true"]) == 0
    assert "Downloading tiiuae/falcon-rw-1b" in capsys.readouterr().err
    assert len(hub.sent) == len(set(hub.sent)) > 0
    assert len(server.ranges) == 4, "validations search all passages"
    assert (root / "psgs_w100.tsv.gz.sha256").is_file()


def test_validations_of_a_part_hold_the_gold_passages(capsys, tmp_path, server, arguments, root):
    """Where a question names none itself; no other part of the run needs to know them."""
    gold = "data.gold_titles=nq-dev_gold_info.json.gz"
    assert run.main([*arguments, gold, "trainer.max_steps=1", "index.validation_passages=20"]) == 0
    (made,) = tmp_path.glob("runs/quickstart/*")
    rows = json.loads((made / "validation_passages.json").read_text())["rows"]
    titles = {question.title for question in toy_questions()[1 : SIZES["validation"]]}
    wanted = {row for row, passage in enumerate(toy_passages()) if passage.title in titles}
    assert wanted
    assert wanted <= {*rows}
    assert len(server.ranges) == 5


@pytest.mark.parametrize(
    ("changes", "is_taken"),
    [
        ([], True),
        (["index.validation_passages=null"], False),
        (["data.gold_titles=null"], False),
        (["data.source=hub"], False),
        (["data.validation=mine.jsonl"], False),
        (["data.validation=held_out"], False),
        (["data.validation=mine.jsonl", "data.gold_titles=mine.json"], True),
        (["data.gold_titles=biencoder-trivia-dev.json.gz"], False),
        (["trainer.max_steps=0"], False),
    ],
)
def test_published_titles_are_those_of_the_published_questions(changes, is_taken):
    assert bool(gold_settings(load_config("offshelf_nq", changes))) is is_taken


def test_gold_titles_that_cannot_be_had(capsys, tmp_path, server, arguments, root):
    part = ["data.gold_titles=nq-dev_gold_info.json.gz", "index.validation_passages=20"]
    del server.files["nq-dev_gold_info.json.gz"]
    line = message(capsys, run.main([*arguments, *part]))
    assert "nq-dev_gold_info.json.gz from " in line
    assert "without the titles set data.gold_titles=null: validations then search" in line
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(
    "change", ["data.gold_titles=null", "index.validation_passages=null", "data.source=hub"]
)
def test_gold_titles_are_not_fetched_where_no_run_takes_them(server, root, change):
    write_hub_files(root)
    assert fetch(root, "nq", change) == 0
    assert not (root / "nq-dev_gold_info.json.gz").exists()


def test_a_run_that_may_not_download(capsys, tmp_path, server, arguments, root):
    line = message(capsys, run.main([*arguments, "data.download=false"]))
    assert "nq-train.qa.csv, nq-dev.qa.csv, nq-test.qa.csv, psgs_w100.tsv.gz: not in" in line
    assert "set data.download=true, or download these 4 files elsewhere" in line
    assert server.ranges == []
    assert nothing_left(tmp_path)


def spoilt(server, root, fault):
    """Files of the server's, one of them spoilt before anything of ours looks at it."""
    root.mkdir()
    for name, content in server.files.items():
        (root / name).write_bytes(content)
    questions, passages = root / "nq-train.qa.csv", root / "psgs_w100.tsv.gz"
    rows = passages_tsv().splitlines(keepends=True)
    match fault:
        case "too few questions":
            questions.write_bytes(questions_csv(7))
        case "no question":
            questions.write_bytes(b"\n\n")
        case "a broken line":
            questions.write_bytes(questions_csv(3) + b"who is it?\tnobody\n")
        case "shorter than downloaded":
            write_record(questions, "http://unused")
            questions.write_bytes(questions_csv(7))
        case "a missing column":
            passages.write_bytes(gzip.compress(passages_tsv().replace(b"title", b"name", 1)))
        case "an id that is no number":
            passages.write_bytes(gzip.compress(passages_tsv().replace(b"\n2\t", b"\ntwo\t", 1)))
        case "an id twice":
            passages.write_bytes(gzip.compress(b"".join([*rows[:3], rows[2], *rows[3:]])))
        case "too few passages":
            passages.write_bytes(gzip.compress(b"".join(rows[:-1])))
        case "damaged gzip":
            packed = bytearray(passages.read_bytes())
            packed[len(packed) // 2] ^= 255
            passages.write_bytes(packed)
        case "gzip cut off":
            passages.write_bytes(passages.read_bytes()[:-50])


@pytest.mark.parametrize(
    ("fault", "parts"),
    [
        ("too few questions", ["nq-train.qa.csv: 7 questions where the published file has 8", "rename it"]),
        ("no question", ["nq-train.qa.csv: no question in the whole file"]),
        ("a broken line", ["nq-train.qa.csv, line 4: 'nobody' is no list of answers"]),
        ("shorter than downloaded", ["nq-train.qa.csv:", "when it was downloaded; delete the file"]),
        ("a missing column", ["psgs_w100.tsv.gz: no passage has a title", "verify_sizes=false"]),
        ("an id that is no number", ["psgs_w100.tsv.gz, passage 2: its id is 'two'", "verify_sizes=false"]),
        ("an id twice", ["psgs_w100.tsv.gz, passage 3: its id is '2'"]),
        ("too few passages", ["psgs_w100.tsv.gz: 23 passages where the published file has 24"]),
        ("damaged gzip", ["psgs_w100.tsv.gz, after line", "is the file whole?"]),
        ("gzip cut off", ["psgs_w100.tsv.gz, after line", "is the file whole?"]),
    ],
)
def test_spoilt_files(capsys, tmp_path, server, arguments, root, fault, parts):
    spoilt(server, root, fault)
    line = message(capsys, run.main(arguments))
    for part in parts:
        assert part in line
    assert nothing_left(tmp_path)


def test_a_download_that_is_not_what_was_published(capsys, tmp_path, server, arguments, root):
    server.files["psgs_w100.tsv.gz"] += b"more"
    line = message(capsys, run.main(arguments))
    assert "psgs_w100.tsv.gz: its md5 is" in line
    assert not (root / "psgs_w100.tsv.gz").exists()
    assert nothing_left(tmp_path)


def test_other_sizes_are_taken_where_nobody_verifies(server, arguments, root):
    spoilt(server, root, "too few questions")
    assert run.main([*arguments, "data.verify_sizes=false", "trainer.max_steps=1"]) == 0


def test_files_of_ones_own_are_not_measured(server, arguments, root):
    spoilt(server, root, "too few questions")
    (root / "nq-train.qa.csv").rename(root / "mine.csv")
    assert run.main([*arguments, "data.train=mine.csv", "trainer.max_steps=1"]) == 0


# ---- the hub ----


def write_hub_files(root):
    questions = toy_questions()
    for split in sources.QUESTION_SPLITS:
        number = sum(split.hub_sizes)
        path = root / split.hub.name
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {
            "question": [question.text for question in questions[:number]],
            "answer": [list(question.answers) for question in questions[:number]],
        }
        pq.write_table(pa.table(columns), path)


def test_questions_from_the_hub(server, root):
    write_hub_files(root)
    config = load_config("offshelf_nq", ["data.source=hub", f"data.root={root}"])
    found = {split: read_data_split(config, split, None) for split in SIZES}
    assert {split: len(questions) for split, questions in found.items()} == SIZES
    assert not {q.text for q in found["train"]} & {q.text for q in found["validation"]}
    assert [file.path.suffix for file in data_files(config, data_settings(config))] == [".parquet"] * 3 + [
        ".gz"
    ]


def test_a_path_means_the_file_that_is_there(server, root):
    spoilt(server, root, "nothing")
    config = load_config("offshelf_nq", ["data.source=hub", f"data.train={root}/nq-train.qa.csv"])
    assert len(read_data_split(config, "train", None)) == 8


def test_a_hub_that_is_not_reachable(capsys, server, root, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    line = message(capsys, fetch(root, "nq", "data.source=hub"))
    assert "download these 2 files elsewhere" in line, "two splits are in one file"
    assert "nq_open/nq_open/validation-00000-of-00001.parquet from https://huggingface.co/datasets/" in line


def test_an_unknown_source(capsys, arguments):
    line = message(capsys, run.main([*arguments, "data.source=web"]))
    assert "data.source='web' is unknown; choose one of: dpr, hub" in line


# ---- where questions come from ----


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ({"test": "nq-test.qa.csv"}, {"test": "nq-dev.qa.csv"}, False),
        ({"test": "nq-test.qa.csv"}, {"test": "/far/nq-test.qa.csv.gz", "root": "elsewhere"}, True),
        ({"test": "nq-test.qa.csv"}, {"test": "nq-test.qa.csv", "source": "hub"}, False),
        (
            {"test": "/law/nq-test.qa.csv", "verify_sizes": False},
            {"test": "/med/nq-test.qa.csv", "verify_sizes": False},
            False,
        ),
        ({"test": "/law/dev/test.jsonl"}, {"test": "/med/dev/test.jsonl"}, False),
        ({"test": "test.jsonl", "root": "/law"}, {"test": "/law/test.jsonl"}, True),
        ({"test": "test.jsonl"}, {"test": "test.jsonl", "train": "x.jsonl", "max_test": 5}, True),
        ({"test": "held_out"}, {"test": "held_out", "train": "x.jsonl"}, False),
        ({"test": "held_out"}, {"test": "held_out", "max_train": 5, "passages": "x.tsv"}, True),
        # the first fifth of the shuffled questions, or the second
        ({"test": "held_out"}, {"test": "held_out", "validation": "held_out"}, False),
    ],
)
def test_the_origin_of_questions_tells_them_apart(first, second, same):
    origins = {question_origin(DataConfig(**settings), "test") for settings in (first, second)}
    assert len(origins) == (1 if same else 2)
