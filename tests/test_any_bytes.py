"""Whatever a file holds, it is read, or one message names it; and what the suite wrote is what it reads."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from datamodules.errors import DataError
from datamodules.judged_sets import read_judged_set
from datamodules.passage_files import read_passages
from datamodules.questions import read_questions
from datamodules.score_files import ScoredQuestion, ScoreFormat, read_scores, write_scores
from datamodules.text_files import json_objects
from datamodules.token_file import TokenFile, TokenFileWriter
from datamodules.token_units import TokenUnit
from datamodules.trec import read_run, run_lines
from datamodules.vital.entries import read_entries
from experiments.checks import read_baseline
from experiments.config import ConfigError, DataConfig, load_config, read_config, to_yaml
from experiments.planning.model_sizes import reader_size
from experiments.show.report_files import read_analysed, read_summary, read_tests, read_validations
from lightning_modules.head_lists import HeadList, HeadRows, read_head_list
from lightning_modules.loading import ModelError
from lightning_modules.metrics.question_values import QuestionValues
from lightning_modules.sentence_transformers_files import (
    EmbeddingSettings,
    read_embedding_settings,
    write_sentence_transformers_files,
)
from tests.any_bytes import assert_names, changed, with_another_value
from tests.saved_dataset import save_dataset
from tests.tiny_models import toy_knowledge_base, toy_passages, toy_questions
from tests.toy_files import write_passages, write_questions


@dataclass(frozen=True)
class Parser:
    """A reader of files that anybody may have written.

    Attributes:
        name: of the kind of file.
        file: which is changed, within a folder.
        write: writes it, and what belongs to it, into the folder.
        read: reads it.
        is_checked: whether no change of it may go unseen.
    """

    name: str
    file: str
    write: Callable[[Path], object]
    read: Callable[[Path], Any]
    is_checked: bool = False

    @property
    def is_json(self) -> bool:
        return self.file.endswith((".json", ".jsonl"))


def _lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


# ---- questions and passages ----


def _write_dpr(folder: Path) -> None:
    rows = (f"{question.text}\t{list(question.answers)}\n" for question in toy_questions()[:4])
    (folder / "x.csv").write_text("".join(rows))


def _write_triviaqa(folder: Path) -> None:
    answer = {"Value": "Lima", "Aliases": ["Lima", "the city of Lima"]}
    data = [{"QuestionId": "t1", "Question": "which city?", "Answer": answer}]
    (folder / "x.json").write_text(json.dumps({"Data": data}))


def _write_parquet_questions(folder: Path) -> None:
    rows = [{"question": question.text, "answer": list(question.answers)} for question in toy_questions()]
    pq.write_table(pa.Table.from_pylist(rows), folder / "x.parquet")


def _write_saved_dataset(folder: Path) -> None:
    if not (folder / "set").is_dir():
        save_dataset(folder / "set", pa.Table.from_pylist([asdict(row) for row in toy_passages()[:4]]))


def _write_passage_lines(folder: Path) -> None:
    (folder / "x.jsonl").write_text(_lines(*map(asdict, toy_passages()[:4])))


def _write_entries(folder: Path) -> None:
    row = {"question": "who?", "answer": ["I"], "title": "A", "topic": "B"}
    (folder / "x.jsonl").write_text(_lines(row, row))


# ---- judged sets ----


def _write_judged_set(folder: Path) -> None:
    (folder / "qrels").mkdir(exist_ok=True)
    (folder / "corpus.jsonl").write_text(_lines({"_id": "d1", "title": "Paris", "text": "in France"}))
    (folder / "queries.jsonl").write_text(_lines({"_id": "1", "text": "where?"}))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\td1\t2\n")


def _write_parquet_set(folder: Path) -> None:
    rows = {
        "corpus": {"_id": "d1", "title": "Paris", "text": "in France"},
        "queries": {"_id": "1", "text": "where?"},
        "qrels": {"query-id": "1", "corpus-id": "d1"},
    }
    for name, row in rows.items():
        (folder / name).mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist([row]), folder / name / "x.parquet")


def _read_judged_set(folder: Path) -> Any:
    found = read_judged_set(folder)
    return found.questions, found.qrels, list(found.passages())


# ---- scores ----


def _scored() -> list[ScoredQuestion]:
    return [
        ScoredQuestion(question, tuple(toy_passages()[:3]), (-0.1, -2.5, -9.0))
        for question in toy_questions()[:2]
    ]


def _score_format(format: ScoreFormat) -> Parser:
    name = "scores.run" if format is ScoreFormat.TREC else "scores.jsonl"

    def write(folder: Path) -> None:
        toy_knowledge_base(folder).close()
        write_scores(folder / name, format, _scored())

    def read(folder: Path) -> Any:
        knowledge_base = toy_knowledge_base(folder)
        try:
            return read_scores(folder / name, toy_questions(), knowledge_base)
        finally:
            knowledge_base.close()

    return Parser(f"scores for {format}", name, write, read)


def _write_run(folder: Path) -> None:
    lines = run_lines("q1", ["a", "b c"], [0.5, -1.0])
    (folder / "x.run").write_text("".join(f"{line}\n" for line in lines))


# ---- what commands write ----


def _write_heads(folder: Path) -> None:
    heads = {"1.3": 0.9, "0.2": 0.8}
    HeadList("qrhead", HeadRows.QUESTION, 2, 7, "tiny", "of it", None, [{"auc": 0.5}], heads).save(
        folder / "heads.json"
    )


def _write_baseline(folder: Path) -> None:
    names = [f"q{number}" for number in range(20)]
    values = QuestionValues(names, {"teacher/auc": [0.5] * 19 + [math.nan]})
    (folder / "start.json").write_text(json.dumps({"instances": values.to_json()}))


def _write_summary(folder: Path) -> None:
    decision = {
        "step": 2,
        "action": "stop",
        "metric": "x",
        "baseline": 0.5,
        "change": 1.0,
        "low": 0,
        "high": 2,
    }
    summary = {"status": "finished", "stopped": "all done", "hr_at_5": {"before": 0.25, "after": None}}
    summary |= {"decisions": [decision], "started_from": {"reader": "x"}, "bm25": {"hr_at_5": {"after": 1.0}}}
    (folder / "summary.json").write_text(json.dumps(summary))


def _write_predictions(folder: Path) -> None:
    row = {
        "id": "q1",
        "first_hit_rank": 0,
        "passages": ["a", "b"],
        "em": 1.0,
        "metrics": {"teacher/auc": None},
    }
    (folder / "predictions.jsonl").write_text(_lines(row, {**row, "id": "q2"}))


def _write_validations(folder: Path) -> None:
    rows = [{"step": step, "metrics": {"validation/kl": 0.5}} for step in (0, 2)]
    (folder / "validations.jsonl").write_text(_lines(*rows))


def _write_analysed(folder: Path) -> None:
    (folder / "instances.jsonl").write_text(_lines({"id": "q1", "metrics": {"teacher/auc": 0.5}}))


def _write_tokens(folder: Path) -> None:
    floats = [0.5, 0.25]
    unit = TokenUnit(
        question_id="q1",
        question="who?",
        answers=["I"],
        answer="I",
        rank=0,
        passage_id="p",
        title="T",
        holds_answer_tokens=True,
        holds_answer_substring=True,
        p_attn=0.5,
        log_p_attn=-0.6931472,
        p_retr=0.5,
        token_ids=[1, 2],
        token_texts=["a", "b"],
        token_scores=floats,
        prompt_total=1.0,
        answer_similarity_input=floats,
        answer_similarity_contextual=floats,
        noun_similarity_input=floats,
        noun_similarity_contextual=floats,
    )
    with TokenFileWriter(folder / "tokens.parquet", {"num_passages": 1}) as writer:
        writer.write([unit])


def _read_tokens(folder: Path) -> Any:
    file = TokenFile(folder / "tokens.parquet")
    return file.info, file.units(1)


# ---- models of others ----


def _write_model(folder: Path) -> None:
    write_sentence_transformers_files(folder, EmbeddingSettings(query_prompt="query: "), dim=8, max_tokens=9)


def _write_sizes(folder: Path) -> None:
    config = {"num_hidden_layers": 1, "hidden_size": 4, "vocab_size": 9, "model_type": "bert"}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"layers.0.weight": torch.zeros(4, 4)}, folder / "model.safetensors")


PARSERS = [
    Parser(
        "questions, JSONL",
        "x.jsonl",
        lambda folder: write_questions(folder / "x.jsonl", range(3)),
        lambda folder: read_questions(folder / "x.jsonl"),
    ),
    Parser("questions, DPR", "x.csv", _write_dpr, lambda folder: read_questions(folder / "x.csv")),
    Parser(
        "questions, TriviaQA", "x.json", _write_triviaqa, lambda folder: read_questions(folder / "x.json")
    ),
    Parser(
        "questions, Parquet",
        "x.parquet",
        _write_parquet_questions,
        lambda folder: read_questions(folder / "x.parquet"),
    ),
    Parser(
        "passages, TSV",
        "x.tsv",
        lambda folder: write_passages(folder / "x.tsv"),
        lambda folder: list(read_passages(folder / "x.tsv")),
    ),
    Parser(
        "passages, JSONL",
        "x.jsonl",
        _write_passage_lines,
        lambda folder: list(read_passages(folder / "x.jsonl")),
    ),
    *(
        Parser(
            f"saved data set, {file}",
            f"set/{file}",
            _write_saved_dataset,
            lambda folder: list(read_passages(folder / "set")),
        )
        for file in ("state.json", "data-00000-of-00001.arrow")
    ),
    Parser("Vital QA", "x.jsonl", _write_entries, lambda folder: read_entries(folder / "x.jsonl")),
    Parser("corpus", "corpus.jsonl", _write_judged_set, _read_judged_set),
    Parser("queries", "queries.jsonl", _write_judged_set, _read_judged_set),
    Parser("qrels", "qrels/test.tsv", _write_judged_set, _read_judged_set),
    Parser("corpus, Parquet", "corpus/x.parquet", _write_parquet_set, _read_judged_set),
    Parser("qrels, Parquet", "qrels/x.parquet", _write_parquet_set, _read_judged_set),
    *map(_score_format, ScoreFormat),
    Parser("TREC run", "x.run", _write_run, lambda folder: read_run(folder / "x.run")),
    Parser(
        "heads",
        "heads.json",
        _write_heads,
        lambda folder: read_head_list(folder / "heads.json"),
        is_checked=True,
    ),
    Parser("token file", "tokens.parquet", _write_tokens, _read_tokens, is_checked=True),
    Parser(
        "baseline",
        "start.json",
        _write_baseline,
        lambda folder: read_baseline(folder / "start.json", ["teacher/auc"], DataConfig()),
    ),
    Parser("summary", "summary.json", _write_summary, lambda folder: read_summary(folder / "summary.json")),
    Parser(
        "predictions",
        "predictions.jsonl",
        _write_predictions,
        lambda folder: read_tests(folder / "predictions.jsonl", folder / "nowhere.jsonl"),
    ),
    Parser(
        "validations",
        "validations.jsonl",
        _write_validations,
        lambda folder: read_validations(folder / "validations.jsonl", 10),
    ),
    Parser(
        "analysed",
        "instances.jsonl",
        _write_analysed,
        lambda folder: read_analysed(folder / "instances.jsonl"),
    ),
    Parser(
        "config.yaml without its checksum",
        "config.yaml",
        lambda folder: (folder / "config.yaml").write_text(to_yaml(load_config("quickstart"))),
        lambda folder: read_config(folder / "config.yaml"),
    ),
    *(
        Parser(f"sentence-transformers, {file}", file, _write_model, read_embedding_settings)
        for file in (
            "modules.json",
            "1_Pooling/config.json",
            "config_sentence_transformers.json",
            "sentence_bert_config.json",
        )
    ),
    *(
        Parser(f"size of a model, {file}", file, _write_sizes, lambda folder: reader_size(str(folder)))
        for file in ("config.json", "model.safetensors")
    ),
]


@pytest.fixture(scope="module", params=PARSERS, ids=lambda parser: parser.name)
def written(request, tmp_path_factory):
    """A parser, a folder with its files, and what is read of them."""
    folder = tmp_path_factory.mktemp("any") / "files"
    folder.mkdir()
    request.param.write(folder)
    return request.param, folder, request.param.read(folder)


@given(data=st.data())
def test_other_bytes(written, data):
    parser, folder, expected = written
    content = (folder / parser.file).read_bytes()
    try_out(parser, folder, expected, data.draw(changed(content) | st.binary(max_size=40)))


@pytest.mark.parametrize(
    "written", [parser for parser in PARSERS if parser.is_json], ids=lambda parser: parser.name, indirect=True
)
@given(data=st.data())
def test_other_values(written, data):
    parser, folder, _ = written
    file = folder / parser.file
    rows = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
    at = data.draw(st.integers(0, len(rows) - 1))
    rows[at] = json.dumps(data.draw(with_another_value(json.loads(rows[at]))))
    # what has no checksum any more was meant
    try_out(replace(parser, is_checked=False), folder, None, "\n".join(rows).encode())


def try_out(parser: Parser, folder: Path, expected: Any, content: bytes) -> None:
    """Reads the file with other content, and puts it back as it was."""
    file = folder / parser.file
    whole = file.read_bytes()
    file.write_bytes(content)
    found = refused = None
    try:
        found = parser.read(folder)
    except ValueError as error:
        refused = error
    finally:
        file.write_bytes(whole)
    if refused is not None:
        assert isinstance(refused, DataError | ConfigError | ModelError) or type(refused) is ValueError
        assert_names(file, refused)
    elif parser.is_checked:
        assert found == expected


def test_deep_and_long_values_are_named(tmp_path):
    path = tmp_path / "x.jsonl"
    for line in ("[" * 100_000, '{"a": ' + "9" * 5000 + "}"):
        path.write_text(line)
        with pytest.raises(DataError, match=r"x\.jsonl, line 1"):
            list(json_objects(path))
