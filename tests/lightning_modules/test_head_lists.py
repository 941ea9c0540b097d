"""Lists of heads: there and back, of one reader alone, and what mistakes are told."""

import dataclasses
import json
from pathlib import Path

import pytest

from datamodules import embedded
from datamodules.sealed_files import read_json
from lightning_modules import head_lists
from lightning_modules.attention_heads import AttentionHeads
from lightning_modules.fingerprint import model_fingerprint
from lightning_modules.head_lists import (
    HeadList,
    HeadRows,
    ListedHeads,
    ShippedHeads,
    parse_heads,
    read_head_list,
    shipped_lists,
)
from lightning_modules.loading import load_causal_lm
from lightning_modules.metrics.head_methods import HEAD_METHODS
from lightning_modules.readers.decoder_only import DecoderOnlyReader
from tests.tiny_models import tiny_llama, tiny_reader

HEADS = {"1.3": 0.9, "0.2": 0.8, "1.0": 0.8, "0.0": 0.5, "0.1": 0.4, "0.3": 0.3, "1.1": 0.2, "1.2": 0.1}


def list_of(model, **changes) -> HeadList:
    made = HeadList(
        method="qrhead",
        rows=HeadRows.QUESTION,
        num_heads=3,
        num_questions=60,
        reader="tiny",
        fingerprint=model_fingerprint(model),
        version="1.2",
        held_out=[{"num_heads": 3, "auc": 0.7}],
        heads=HEADS,
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture
def reader() -> DecoderOnlyReader:
    return tiny_reader()


@pytest.fixture
def shipped(tmp_path, monkeypatch) -> Path:
    """The folder of shipped lists, an empty one in its place."""
    monkeypatch.setattr(head_lists, "SHIPPED", tmp_path)
    return tmp_path


def test_a_file_holds_the_list(tmp_path, reader):
    made = list_of(reader.model)
    made.save(tmp_path / "heads.json")
    read = read_head_list(tmp_path / "heads.json")
    assert read == made
    assert list(read.heads) == list(HEADS), "in the order of their scores"
    assert str(read.best(3)) == "0.2,1.0,1.3"
    assert str(read.best(8)) == "0.0,0.1,0.2,0.3,1.0,1.1,1.2,1.3"


def test_a_file_is_for_its_reader(tmp_path, reader):
    path = tmp_path / "heads.json"
    list_of(reader.model).save(path)
    source = parse_heads(f" {path}")
    assert isinstance(source, ListedHeads)
    choosy = DecoderOnlyReader(reader.model, reader.prompts, source)
    assert choosy.attention_heads == AttentionHeads.parse("0.2,1.0,1.3")
    assert choosy.heads_mask.sum() == 3
    assert choosy.showing(context="independent").attention_heads == choosy.attention_heads
    message = rf"^attention_heads={path}: these are heads of 'tiny', .* with python -m experiments"
    with pytest.raises(ValueError, match=message):
        DecoderOnlyReader(tiny_llama(len(reader.tokenizer), seed=1), reader.prompts, source)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot read the list of heads .* \(No such file or directory\)"),
        ("{}", "holds no list of heads; give a file that python -m experiments.select_heads"),
        ("{", "is damaged: no JSON .*; give a file that python -m experiments.select_heads"),
        ("[1]", "is damaged: a JSON list"),
        ({"num_questions": 8, "checksum": "0"}, "it is not what was written"),
        ({"heads": {}}, "holds no list of heads"),
        ({"heads": {"1.*": 1.0}}, "holds no list of heads"),
        ({"num_heads": 0}, "holds no list of heads"),
        ({"rows": "middle"}, "holds no list of heads"),
        ({"more": 1}, "holds no list of heads"),
    ],
)
def test_other_files_are_refused(tmp_path, reader, content, message):
    path = tmp_path / "heads.json"
    if isinstance(content, dict):
        list_of(reader.model).save(path)
        content = json.dumps({**read_json(path), **content})
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        parse_heads(str(path))
    assert str(path) in str(error.value)


def test_a_method_takes_the_shipped_list_of_the_reader(shipped, reader):
    other = tiny_llama(len(reader.tokenizer), seed=1)
    lists = {
        "a": list_of(other, heads={"0.0": 1.0}),
        "b": list_of(reader.model, rows=HeadRows.ANSWER, heads={"0.1": 1.0}),
        "c": list_of(reader.model, method="core", heads={"1.1": 1.0, "0.3": 0.5}),
        "d": list_of(reader.model),
    }
    for name, listed in lists.items():
        listed.save(shipped / f"{name}.json")
    assert parse_heads("qrhead:2") == ShippedHeads("qrhead", 2)
    assert str(ShippedHeads("qrhead", 2).heads_of(reader.model)) == "0.2,1.3"
    assert str(ShippedHeads("core", 1).heads_of(reader.model)) == "1.1"
    assert str(ShippedHeads("qrhead", 1).heads_of(other)) == "0.0"
    with pytest.raises(ValueError, match=r"^attention_heads=core:3: this reader has 2 heads; ask for fewer"):
        ShippedHeads("core", 3).heads_of(reader.model)


def test_a_reader_without_a_list_says_how_to_make_one(shipped, reader):
    with pytest.raises(ValueError, match=r"^attention_heads=core:8: no list of this reader's heads") as error:
        DecoderOnlyReader(reader.model, reader.prompts, parse_heads("core:8"))
    assert "python -m experiments.select_heads --exp NAME --method core --num-heads 8" in str(error.value)


@pytest.mark.parametrize("text", ["qrhead:", "qrhead:0", "core:x", "core:-1", "qrhead:1.5"])
def test_a_method_needs_a_number(text):
    with pytest.raises(ValueError, match=r"names no attention head; write (qrhead|core):16, for its best 16"):
        parse_heads(text)


@pytest.mark.parametrize("text", ["best:16", "qrhead", "12", ""])
def test_a_mistake_is_told_every_form(text):
    with pytest.raises(ValueError, match=r"12\.3,14.* layers:0-3, or qrhead:16, core:16, or the \.json file"):
        parse_heads(text)


def test_heads_by_name_are_what_they_were():
    for text in ("0.1,2.*", "layers:1-2"):
        assert parse_heads(text) == AttentionHeads.parse(text)


def test_what_is_shipped_is_whole():
    found = list(shipped_lists())
    assert {listed.method for listed in found} == set(HEAD_METHODS)
    for listed in found:
        scores = list(listed.heads.values())
        assert scores == sorted(scores, reverse=True)
        assert (len(listed.heads), listed.rows) == (30 * 9, HeadRows.QUESTION)


@pytest.mark.embedded
def test_the_embedded_reader_has_lists():
    model, _ = load_causal_lm(embedded.reader_gguf())
    for method in HEAD_METHODS:
        assert ShippedHeads(method, 16).heads_of(model).mask(30, 9).sum() == 16
