"""Token files: what is written is what is read, whole or not at all."""

import json
from dataclasses import asdict, replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from datamodules import token_file
from datamodules.errors import DataError
from datamodules.token_file import TokenFile, TokenFileWriter
from datamodules.token_units import SCHEMA, TokenUnit

K = 3
INFO = {"num_passages": K, "experiment": "toy", "percentiles": [90]}


def floats(generator, length) -> list[float]:
    return generator.random(length, dtype=np.float32).tolist()


def unit(question: int, rank: int) -> TokenUnit:
    """Units of all lengths; question 1 has no nouns, and of its last passage nothing was seen."""
    generator = np.random.default_rng([question, rank])
    length = 0 if (question, rank) == (1, K - 1) else 2 + question + rank
    return TokenUnit(
        question_id=f"q{question}",
        question="what?",
        answers=["one", "two"],
        answer="one",
        rank=rank,
        passage_id=f"p{question}-{rank}",
        title="A title",
        holds_answer_tokens=rank == 0,
        holds_answer_substring=rank < 2,
        p_attn=float(np.float32(0.1 * (rank + 1))),
        log_p_attn=float(np.log(np.float32(0.1 * (rank + 1)))),
        p_retr=0.25,
        token_ids=list(range(length)),
        token_texts=[f" t{token}" for token in range(length)],
        token_scores=floats(generator, length),
        prompt_total=7.5 + question,
        answer_similarity_input=floats(generator, length) if length else None,
        answer_similarity_contextual=floats(generator, length) if length else None,
        noun_similarity_input=None if question == 1 else floats(generator, length),
        noun_similarity_contextual=None if question == 1 else floats(generator, length),
    )


def write(path, num_questions=4, info=INFO) -> list[TokenUnit]:
    units = [unit(question, rank) for question in range(num_questions) for rank in range(K)]
    with TokenFileWriter(path, info) as writer:
        for start in range(0, len(units), 2 * K):
            writer.write(units[start : start + 2 * K])
    return units


@pytest.fixture(params=[1, 500], ids=["several row groups", "one row group"])
def written(request, tmp_path, monkeypatch):
    monkeypatch.setattr(token_file, "_UNITS_PER_ROW_GROUP", request.param)
    path = tmp_path / "new" / "tokens.parquet"
    units = write(path)
    assert pq.ParquetFile(path).num_row_groups == (2 if request.param == 1 else 1)
    return path, units


@pytest.mark.parametrize("embeddings", ["input", "contextual"])
@pytest.mark.parametrize("match", ["tokens", "substring"])
def test_batches_hold_what_was_written(written, embeddings, match):
    path, units = written
    batches = list(TokenFile(path).batches(embeddings, match))
    assert [q for batch in batches for q in batch.question_ids] == ["q0", "q1", "q2", "q3"]
    rows = iter(units)
    for batch in batches:
        count = len(batch.question_ids)
        assert batch.question_of_unit.tolist() == [b for b in range(count) for _ in range(K)]
        for row in range(count * K):
            expected = next(rows)
            length = len(expected.token_scores)
            assert batch.mask[row].tolist() == [t < length for t in range(batch.mask.shape[1])]
            assert batch.token_scores[row, :length].tolist() == expected.token_scores
            assert float(batch.prompt_total[row]) == expected.prompt_total
            for target in ("answer", "noun"):
                found = getattr(batch, f"{target}_similarity")[row]
                similarity = getattr(expected, f"{target}_similarity_{embeddings}")
                if similarity is None:
                    assert found.isnan().all()
                else:
                    assert found[:length].tolist() == similarity
            assert float(batch.log_p_attn.flatten()[row]) == expected.log_p_attn
            assert bool(batch.holds_answer.flatten()[row]) == getattr(expected, f"holds_answer_{match}")
    assert next(rows, None) is None


def test_units_of_the_first_questions(written):
    path, units = written
    assert TokenFile(path).units(3) == units[: 3 * K]
    assert TokenFile(path).units(9) == units
    assert TokenFile(path).units(0) == []


def test_every_field_has_a_column(written):
    path, _ = written
    table = pq.read_table(path)
    assert table.schema.names == list(asdict(unit(0, 0)))
    assert table.schema.remove_metadata() == SCHEMA
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"


def test_info_travels_with_the_file(written):
    path, _ = written
    assert TokenFile(path).info == {**INFO, "version": token_file.VERSION}


def interrupted(path):
    with TokenFileWriter(path, INFO) as writer:
        writer.write([unit(0, rank) for rank in range(K)])
        raise KeyboardInterrupt


def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path):
    path = tmp_path / "tokens.parquet"
    write(path)
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        interrupted(path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before, "the one that was there before"


def test_an_empty_file(tmp_path):
    path = tmp_path / "tokens.parquet"
    write(path, num_questions=0)
    assert list(TokenFile(path).batches("input", "tokens")) == []


# ---- files that cannot be read ----


def rewritten(path, without=(), **metadata):
    """The same file with other metadata (None = none) or without some columns."""
    write(path)
    table = pq.read_table(path).drop_columns(list(without))
    found = {**pq.ParquetFile(path).metadata.metadata, **{k.encode(): v for k, v in metadata.items()}}
    found.pop(b"ARROW:schema", None)
    table = table.replace_schema_metadata({k: v for k, v in found.items() if v is not None})
    pq.write_table(table, path)
    return path


def test_a_file_that_was_cut_short(tmp_path):
    path = tmp_path / "tokens.parquet"
    write(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"tokens\.parquet: not a token file, or a damaged one.*--run RUN"):
        TokenFile(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"token_file": None}, r"a Parquet file, but no token file; write one with"),
        ({"complete": None}, r"incomplete, its writing was cut short; write it anew"),
        (
            {"token_file": json.dumps({**INFO, "version": token_file.VERSION + 1})},
            r"of version 3, and this program knows versions up to 2; update it",
        ),
    ],
)
def test_files_of_other_kinds(tmp_path, metadata, message):
    path = rewritten(tmp_path / "tokens.parquet", **metadata)
    with pytest.raises(DataError, match=message):
        TokenFile(path)


def test_what_a_file_lacks(tmp_path):
    path = rewritten(tmp_path / "tokens.parquet", without=["noun_similarity_contextual"])
    assert len(list(TokenFile(path).batches("input", "tokens"))) == 1
    with pytest.raises(DataError, match="lacks the column noun_similarity_contextual"):
        next(TokenFile(path).batches("contextual", "tokens"))


def test_a_file_of_version_1_has_no_logarithms(tmp_path):
    path = tmp_path / "tokens.parquet"
    info = json.dumps({**INFO, "version": 1})
    rewritten(path, without=["log_p_attn"], token_file=info)
    units = [unit(question, rank) for question in range(4) for rank in range(K)]
    file = TokenFile(path)
    found = torch.cat([batch.log_p_attn for batch in file.batches("input", "tokens")])
    torch.testing.assert_close(found.flatten(), torch.tensor([of.p_attn for of in units]).log())
    assert [of.log_p_attn for of in file.units(4)] == pytest.approx([of.log_p_attn for of in units])
    assert [replace(of, log_p_attn=0.0) for of in file.units(4)] == [
        replace(of, log_p_attn=0.0) for of in units
    ]


def test_no_file(tmp_path):
    with pytest.raises(DataError, match=r"token file .* does not exist"):
        TokenFile(tmp_path / "nowhere.parquet")


def test_places_that_cannot_be_written_to(tmp_path):
    with pytest.raises(DataError, match="is a folder; name a file with --out"):
        TokenFileWriter(tmp_path, INFO)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written .*--out"):
        TokenFileWriter(tmp_path / "file" / "tokens.parquet", INFO)


def test_arrays_are_as_good_as_lists(tmp_path):
    path = tmp_path / "tokens.parquet"
    plain = unit(0, 0)
    arrays = replace(plain, token_scores=torch.tensor(plain.token_scores).numpy())
    with TokenFileWriter(path, {**INFO, "num_passages": 1}) as writer:
        writer.write([arrays])
    assert TokenFile(path).units(1) == [plain]
