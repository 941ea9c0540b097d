"""A row for each unit, with the numbers that the indicators are computed from."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning import Callback

from callbacks.refresh_index import RefreshIndex
from callbacks.save_tokens import SaveTokens, units_of
from datamodules.answer_matching import has_answer
from datamodules.batches import Batch
from datamodules.token_file import TokenFile
from lightning_modules.evaluation import ReadQuestions
from lightning_modules.metrics.indicators import AttentionNormalization
from lightning_modules.metrics.units import passage_units
from lightning_modules.readers.base import Reader, TokenEmbeddings
from tests.tiny_models import tiny_reader_of, toy_passages, toy_questions
from tests.toy_training import LIGHTNING_ADVICE, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)

K = 3
QUESTIONS = [toy_questions()[0], replace(toy_questions()[1], nouns=()), toy_questions()[2]]
PASSAGES = [[toy_passages()[i] for i in rows] for rows in ((0, 13, 5), (1, 2, 15), (20, 2, 7))]
ANSWERS = ["Paris", "Tokyo", "Lima"]
BATCH = Batch(QUESTIONS, PASSAGES, ANSWERS)


def evaluated(kind, drops=False) -> tuple[ReadQuestions, Reader]:
    """Three questions, the second one without nouns, read by a reader of a kind."""
    reader = tiny_reader_of(kind)
    read = reader.read_drops if drops else reader.read
    with torch.no_grad():
        output = read(BATCH)
    generator = torch.Generator().manual_seed(0)
    log_p = torch.randn(2, 3, K, generator=generator).log_softmax(dim=-1)
    hits = torch.zeros(3, K, dtype=torch.bool)
    units = passage_units(output, reader)
    loss = torch.tensor(0.5)
    return ReadQuestions(hits, log_p[0], units, BATCH, output, log_p[1], loss), reader


@pytest.fixture(params=["concatenated", "independent", "fusion_in_decoder"])
def kind(request):
    return request.param


@pytest.mark.parametrize("drops", [False, True])
def test_units_are_those_of_the_indicators(kind, drops):
    questions, reader = evaluated(kind, drops)
    units = units_of(questions, reader)
    assert [(u.question_id, u.rank) for u in units] == [(f"q{b}", k) for b in range(3) for k in range(K)]
    read = reader.read_drops if drops else reader.read
    with torch.no_grad():
        output = read(BATCH)
    for embeddings in TokenEmbeddings:
        shares = passage_units(output, reader, embeddings, AttentionNormalization.PROMPT)
        for row in range(3 * K):
            place = (shares.question_of_unit[row], shares.rank_of_unit[row])
            found = units[int(place[0]) * K + int(place[1])]
            mask = shares.mask[row]
            share = np.array(found.token_scores) / found.prompt_total
            np.testing.assert_allclose(share, shares.attention[row][mask].numpy(), rtol=1e-5)
            for target in ("answer", "noun"):
                similarity = getattr(found, f"{target}_similarity_{embeddings}")
                expected = getattr(shares, f"{target}_similarity")[row][mask]
                if similarity is None:
                    assert (target, found.question_id) == ("noun", "q1")
                    assert expected.isnan().all()
                else:
                    np.testing.assert_allclose(similarity, expected.numpy(), atol=1e-6)


def test_what_is_known_of_a_passage(kind):
    read, reader = evaluated(kind)
    for row, found in enumerate(units_of(read, reader)):
        b, k = divmod(row, K)
        passage, question = PASSAGES[b][k], QUESTIONS[b]
        assert (found.passage_id, found.title) == (passage.id, passage.title)
        assert (found.question, found.answers, found.answer) == (question.text, question.answers, ANSWERS[b])
        assert found.holds_answer_tokens == has_answer(passage.text, question.answers, "tokens")
        assert found.holds_answer_substring == has_answer(passage.text, question.answers, "substring")
        assert found.p_attn == pytest.approx(float(read.p_target[b, k]))
        assert found.log_p_attn == float(read.log_p_target[b, k])
        assert found.p_retr == pytest.approx(float(read.log_p_retr[b, k].exp()))
        assert len(found.token_ids) == len(found.token_texts) == len(found.token_scores)
        assert "".join(found.token_texts) == f" {passage.title} {passage.text}"
        assert reader.prompts.tokenizer.decode(found.token_ids) == f" {passage.title} {passage.text}"
    assert any(found.holds_answer_tokens for found in units_of(read, reader))


def test_a_passage_of_which_nothing_was_read(kind):
    read, reader = evaluated(kind)
    prompts = read.output.prompts
    hidden = (prompts.block_of_token == 1) & (prompts.question_of_prompt == 2)[:, None]
    prompts = replace(prompts, content_mask=prompts.content_mask & ~hidden)
    read = replace(read, output=replace(read.output, prompts=prompts))
    units = units_of(read, reader)
    lengths = [len(found.token_ids) for found in units]
    assert len(lengths) == 3 * K
    assert [row for row, length in enumerate(lengths) if not length] == [2 * K + 1]
    empty = units[2 * K + 1]
    assert empty.answer_similarity_input is empty.noun_similarity_contextual is None
    assert len(empty.token_scores) == len(empty.token_texts) == 0
    assert empty.p_attn > 0


# ---- in a trainer ----


def run_test(folder, callbacks=(), **settings):
    path = folder / "tokens.parquet"
    module = toy_module(folder, token_embeddings="contextual", generate=False, **settings)
    save = SaveTokens(path, {"num_passages": module.num_passages})
    index = RefreshIndex("-1", folder / "index", show_progress=False)
    trainer = toy_trainer(folder, [index, save, *callbacks], limit_val_batches=1.0)
    datamodule = toy_datamodule(evaluation_batch_size=4)
    trainer.test(module, datamodule, verbose=False)
    return path, datamodule


def test_a_test_leaves_a_whole_file(tmp_path):
    path, datamodule = run_test(tmp_path, num_passages=4)
    units = TokenFile(path).units(100)
    assert [u.question_id for u in units[::4]] == [question.id for question in datamodule.test]
    assert not list(tmp_path.glob("*.partial"))
    for start in range(0, len(units), 4):
        assert sum(u.p_attn for u in units[start : start + 4]) == pytest.approx(1)
        assert sum(u.p_retr for u in units[start : start + 4]) == pytest.approx(1)


class Break(Callback):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, *_args) -> None:
        if batch_idx == 1:
            raise self.error


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="in the second batch"):
        run_test(tmp_path, [Break(RuntimeError("in the second batch"))])
    assert not list(tmp_path.glob("tokens*"))
