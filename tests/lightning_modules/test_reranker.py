"""The reranker against the model itself, pair by pair."""

import pytest
import torch

from datamodules.batches import Batch
from lightning_modules.loading import ModelError
from lightning_modules.reranker import Reranker
from tests.tiny_models import (
    tiny_cross_encoder,
    tiny_retriever,
    tiny_tokenizer,
    toy_passages,
    toy_questions,
)

BATCH = Batch(toy_questions()[:3], [toy_passages()[i : i + 4] for i in (0, 5, 16)], [""] * 3)


def saved(folder, model):
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("num_labels", [1, 2])
def test_scores_are_those_of_the_pairs_one_by_one(tmp_path, num_labels):
    model, tokenizer = tiny_cross_encoder(num_labels), tiny_tokenizer()
    found = Reranker.load(saved(tmp_path, model)).scores(BATCH, num_at_once=5)
    assert found.shape == (3, 4)
    for question, passages, scores in zip(BATCH.questions, BATCH.passages, found, strict=True):
        for passage, score in zip(passages, scores, strict=True):
            pair = tokenizer(question.text, f"{passage.title} {passage.text}", return_tensors="pt")
            with torch.no_grad():
                logits = model(**pair).logits[0]
            expected = logits[0] if num_labels == 1 else logits[1] - logits[0]
            torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-5)
    assert found.std(dim=1).min() > 1e-3


def test_the_passage_is_cut_and_the_question_kept(tmp_path):
    reranker = Reranker.load(saved(tmp_path, tiny_cross_encoder()))
    whole = reranker.scores(BATCH)
    reranker.max_tokens = 24
    assert not torch.allclose(whole, reranker.scores(BATCH))


def test_what_is_no_reranker_is_refused(tmp_path):
    with pytest.raises(ModelError, match="it has 3 classes; a reranker has one score"):
        Reranker.load(saved(tmp_path / "three", tiny_cross_encoder(3)))
    tiny_retriever().save(tmp_path / "plain")
    with pytest.raises(ModelError, match=r"reranker .*plain: its files lack 4 weights"):
        Reranker.load(tmp_path / "plain")
    with pytest.raises(ModelError, match=r"reranker \./none: there is no such folder"):
        Reranker.load("./none")
