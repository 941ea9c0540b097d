"""The embeddings of the knowledge base against encoding it in order, and their fingerprint."""

import numpy as np
import pytest
import torch
from tokenizers import normalizers

from datamodules.batches import Passage
from datamodules.passages import build_knowledge_base
from lightning_modules import encoding
from lightning_modules.encoding import embeddings_fingerprint, encode_rows
from tests.tiny_models import tiny_retriever, toy_knowledge_base, toy_passages


@pytest.fixture
def knowledge_base(tmp_path):
    return toy_knowledge_base(tmp_path)


@pytest.mark.parametrize(
    ("batch_size", "sorted_together", "tokenized_together"),
    [(5, 20_000, 1024), (1, 20_000, 1024), (4, 7, 1024), (3, 20_000, 7), (3, 20_000, 2)],
)
def test_equals_encoding_in_order(
    knowledge_base, monkeypatch, batch_size, sorted_together, tokenized_together
):
    monkeypatch.setattr(encoding, "_PASSAGES_SORTED_TOGETHER", sorted_together)
    monkeypatch.setattr(encoding, "_TOKENIZED_TOGETHER", tokenized_together)
    retriever = tiny_retriever()
    counted = []
    rows = range(len(knowledge_base))
    out = encode_rows(retriever, knowledge_base, rows, batch_size, counted.append)
    with torch.no_grad():
        expected = [retriever.encode_passages([passage])[0] for passage in toy_passages()]
    np.testing.assert_allclose(out, torch.stack(expected).numpy(), rtol=1e-4, atol=1e-5)
    assert sum(counted) == len(knowledge_base)
    assert max(counted) == batch_size


def test_rows_come_in_the_order_asked_for(knowledge_base):
    retriever = tiny_retriever()
    whole = encode_rows(retriever, knowledge_base, range(len(knowledge_base)))
    for rows in (range(6, 17), [20, 3, 3, 11]):
        found = encode_rows(retriever, knowledge_base, rows, 4)
        np.testing.assert_allclose(found, whole[list(rows)], rtol=1e-4, atol=1e-5)


def test_is_without_dropout_and_leaves_the_mode(knowledge_base):
    retriever = tiny_retriever().train()
    for module in retriever.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    rows = range(len(knowledge_base))
    twice = [encode_rows(retriever, knowledge_base, rows) for _ in range(2)]
    assert (twice[0] == twice[1]).all()
    assert all(module.training for module in retriever.modules())


def test_fingerprint_is_stable(knowledge_base, tmp_path):
    first = embeddings_fingerprint(tiny_retriever(), knowledge_base)
    same_passages = build_knowledge_base(toy_passages(), tmp_path / "copy.arrow", source="elsewhere")
    assert embeddings_fingerprint(tiny_retriever(), same_passages) == first
    # what only queries depend on, or nothing at all
    assert embeddings_fingerprint(tiny_retriever(max_query_tokens=3).train(), knowledge_base) == first
    untied = tiny_retriever(tied=False)
    untied.query_encoder.embeddings.word_embeddings.weight.data[0, 0] += 1
    assert embeddings_fingerprint(untied, knowledge_base) == first
    used = tiny_retriever()
    used.encode_passages(toy_passages()[:3])  # which tells the tokenizer where to cut
    assert embeddings_fingerprint(used, knowledge_base) == first


def test_fingerprint_changes_with_all_that_embeddings_depend_on(knowledge_base, tmp_path):
    other_weight, other_buffer = tiny_retriever(), tiny_retriever()
    other_weight.passage_encoder.encoder.layer[2].output.dense.bias.data[0] += 1e-6
    other_buffer.to(torch.bfloat16)
    shortened = [*toy_passages()[:-1], Passage("r11", "Rivers of Greece", "Rivers of Greece run.")]
    swapped = [*reversed(toy_passages())]
    other_config = tiny_retriever()
    other_config.passage_encoder.config.layer_norm_eps = 0.1
    lower_case = tiny_retriever()
    lower_case.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    prints = [
        embeddings_fingerprint(tiny_retriever(), knowledge_base),
        embeddings_fingerprint(other_weight, knowledge_base),
        embeddings_fingerprint(other_config, knowledge_base),
        embeddings_fingerprint(lower_case, knowledge_base),
        embeddings_fingerprint(other_buffer, knowledge_base),
        embeddings_fingerprint(tiny_retriever(normalize=True), knowledge_base),
        embeddings_fingerprint(tiny_retriever(max_passage_tokens=9), knowledge_base),
        embeddings_fingerprint(
            tiny_retriever(), build_knowledge_base(shortened, tmp_path / "shortened.arrow")
        ),
        embeddings_fingerprint(tiny_retriever(), build_knowledge_base(swapped, tmp_path / "swapped.arrow")),
    ]
    assert len(set(prints)) == len(prints)
