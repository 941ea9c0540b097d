"""Choosing heads on a toy corpus: which questions are read, and that every head is scored by itself."""

import dataclasses

import pytest
import torch

from datamodules.batches import Batch, TokenScope
from lightning_modules.attention_heads import AttentionHeads
from lightning_modules.encoding import build_index
from lightning_modules.evaluation import find_hits
from lightning_modules.head_lists import HeadRows
from lightning_modules.head_selection import (
    COUNTS,
    FEWEST_QUESTIONS,
    HeadScores,
    find_candidates,
    score_heads,
    select_heads,
)
from lightning_modules.metrics.head_methods import HEAD_METHODS
from lightning_modules.readers.decoder_only import DecoderOnlyReader
from lightning_modules.retriever_reader import preferred_answers
from lightning_modules.scores import PassageTokens
from tests.tiny_models import tiny_fusion_reader, tiny_reader, toy_questions
from tests.toy_training import toy_module

QUESTIONS = [
    dataclasses.replace(question, id=f"{question.id}-{time}")
    for time in range(30)
    for question in toy_questions()
]


@pytest.fixture
def module(tmp_path):
    made = toy_module(tmp_path, num_passages=4)
    made.index = build_index(made.retriever, made.knowledge_base)
    return made


def test_questions_have_passages_of_both_kinds(module):
    expected = []
    for question in toy_questions():
        hits = find_hits([question], module.retrieve([question], 4), module.answer_match)[0]
        if hits.any() and not hits.all():
            expected.append((question.id, hits.tolist()))
    assert 0 < len(expected) < 12, "some are left out"
    found = find_candidates(module, QUESTIONS, len(QUESTIONS))
    first = [(one.question.id, one.has_answer.tolist()) for one in found[: len(expected)]]
    assert first == [(f"{question_id}-0", hits) for question_id, hits in expected]
    assert len(found) == 30 * len(expected) > FEWEST_QUESTIONS
    assert len(find_candidates(module, QUESTIONS, FEWEST_QUESTIONS)) == FEWEST_QUESTIONS


def test_too_few_questions_are_refused(module):
    with pytest.raises(ValueError, match=r"only \d+ of 24 questions have passages with and .* needs 50"):
        find_candidates(module, QUESTIONS[:24], 100)
    with pytest.raises(ValueError, match="questions is 49; to choose heads takes at least 50"):
        find_candidates(module, QUESTIONS, 49)


@pytest.mark.parametrize("context", ["concatenated", "independent"])
@pytest.mark.parametrize("rows", list(HeadRows))
def test_every_head_is_scored_as_if_it_were_chosen_alone(module, context, rows):
    reader = tiny_reader(context).train()
    candidates = find_candidates(module, QUESTIONS, FEWEST_QUESTIONS)[:3]
    counted = []
    found = score_heads(reader, candidates, rows, batch_size=2, progress=counted.append)
    assert counted == [2, 1]
    assert found.scores.shape == (3, 2, 4, 4)
    assert reader.model.training, "as it was"
    reader.eval()
    for number, candidate in enumerate(candidates):
        batch = Batch([candidate.question], [candidate.passages], preferred_answers([candidate.question]))
        for layer, head in ((0, 2), (1, 1)):
            choosy = DecoderOnlyReader(reader.model, reader.prompts, AttentionHeads.parse(f"{layer}.{head}"))
            output = choosy.read(batch)
            tokens = PassageTokens.of(output.prompts, TokenScope.PASSAGE)
            if rows is HeadRows.ANSWER:
                expected = tokens.sum(output.token_scores)[0]
            elif context == "independent":
                expected = tokens.sum(choosy.read_signals(batch).question_scores)[0]
            else:
                expected = tokens.sum(choosy.read_question_heads(batch).question_head_scores[:, layer, head])[
                    0
                ]
            torch.testing.assert_close(found.scores[number, layer, head], expected, rtol=1e-4, atol=1e-5)
            assert torch.equal(found.lengths[number], tokens.count()[0].float())
        assert torch.equal(found.has_answer[number], candidate.has_answer)


def test_an_encoder_decoder_has_rows_of_the_answer_alone(module):
    candidates = find_candidates(module, QUESTIONS, FEWEST_QUESTIONS)[:2]
    reader = tiny_fusion_reader()
    assert score_heads(reader, candidates, HeadRows.ANSWER).scores.shape == (2, 3, 4, 4)
    with pytest.raises(ValueError, match="rows of the answer alone"):
        score_heads(reader, candidates, HeadRows.QUESTION)


def made_up_scores() -> HeadScores:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(60, 2, 4, 5, generator=generator)
    has_answer = torch.rand(60, 5, generator=generator) < 0.4
    has_answer[:, 0], has_answer[:, 1] = True, False
    scores[:, 1, 3] += has_answer
    return HeadScores(scores, has_answer, torch.ones(60, 5))


@pytest.mark.parametrize("method", list(HEAD_METHODS))
def test_all_heads_are_ranked_and_some_numbers_of_them_judged(method):
    found = made_up_scores()
    selection = select_heads(found, method, num_heads=3)
    assert len(selection.heads) == 8
    assert next(iter(selection.heads)) == "1.3"
    scores = list(selection.heads.values())
    assert scores == sorted(scores, reverse=True)
    of_heads = HEAD_METHODS[method](found.scores, found.has_answer)
    for name, score in selection.heads.items():
        layer, head = map(int, name.split("."))
        assert score == pytest.approx(of_heads[layer, head].item(), abs=1e-6)
    assert [row.num_heads for row in selection.held_out] == [1, 2, 3, 4, 8]
    assert {1, 2, 4} < set(COUNTS)
    assert selection.held_out[0].auc == 1.0
    assert selection.num_questions == 60


@pytest.mark.parametrize("num_heads", [0, 9])
def test_more_heads_than_there_are_are_refused(num_heads):
    with pytest.raises(ValueError, match=f"num_heads is {num_heads}; the reader has 8 heads in all"):
        select_heads(made_up_scores(), "qrhead", num_heads)
