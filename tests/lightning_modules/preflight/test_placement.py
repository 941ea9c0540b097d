import pytest
import torch

from datamodules.batches import Batch, TokenScope
from datamodules.prompts import Context
from lightning_modules.preflight.placement import attention_shares, prompt_positions
from lightning_modules.preflight.variants import Order, shown_in
from lightning_modules.scores import PassageTokens
from tests.tiny_models import tiny_reader, tiny_reader_of, toy_passages, toy_questions

QUESTIONS = toy_questions()[:3]
ANSWERS = [question.answers[0] for question in QUESTIONS]
PASSAGES = [[toy_passages()[j] for j in (i, i + 5, 12 + i, 13 + i)] for i in range(3)]
KINDS = ["concatenated", "independent", "fusion_in_decoder"]


def test_positions_are_where_the_passages_stand():
    for seed in range(4):
        reader = shown_in(tiny_reader(), Context.CONCATENATED, Order.SHUFFLED)
        prompts = reader.prompts.build(Batch(QUESTIONS, PASSAGES, ANSWERS, order_seed=seed))
        for row, found in enumerate(prompt_positions(prompts).tolist()):
            seen = []
            for rank in prompts.block_of_token[row].tolist():
                if rank >= 0 and rank not in seen:
                    seen.append(rank)
            assert [seen.index(rank) for rank in range(4)] == found
    rank_order = shown_in(tiny_reader(), Context.CONCATENATED).prompts.build(Batch(QUESTIONS, PASSAGES))
    assert prompt_positions(rank_order).tolist() == [[0, 1, 2, 3]] * 3
    alone = tiny_reader("independent").prompts.build(Batch(QUESTIONS, PASSAGES))
    assert prompt_positions(alone).tolist() == [[0] * 4] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_and_shares(kind):
    reader = tiny_reader_of(kind)
    with torch.no_grad():
        output = reader.read(Batch(QUESTIONS, PASSAGES, ANSWERS))
    prompts = output.prompts
    lengths = torch.zeros(3, 4, dtype=torch.long)
    content = [0.0] * 3
    for row, question in enumerate(prompts.question_of_prompt.tolist()):
        for token, rank in enumerate(prompts.block_of_token[row].tolist()):
            if prompts.content_mask[row, token]:
                lengths[question, rank] += 1
                content[question] += float(output.token_scores[row, token])
    assert torch.equal(PassageTokens.of(prompts, TokenScope.PASSAGE).count(), lengths)
    shares = attention_shares(output)
    totals = torch.zeros(3).index_add(0, prompts.question_of_prompt, output.token_scores.sum(dim=1))
    assert shares.passages.tolist() == pytest.approx(
        [c / float(t) for c, t in zip(content, totals, strict=True)]
    )
    assert (shares.passages + shares.first_token + shares.rest).tolist() == pytest.approx([1.0] * 3)
    assert (shares.first_token > 0).all()
