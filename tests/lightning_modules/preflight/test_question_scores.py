from dataclasses import replace

import torch

from lightning_modules.metrics.teacher_checks import kendall_tau
from lightning_modules.objectives import ADist
from lightning_modules.preflight.question_scores import QuestionScores
from lightning_modules.preflight.variants import Order, Variant
from tests.tiny_models import toy_passages, toy_questions


def test_the_order_for_an_unrelated_question_is_compared_passage_by_passage():
    collected = QuestionScores()
    questions, passages = toy_questions()[:2], [toy_passages()[:3]] * 2
    shape = torch.zeros(2, 3)
    collected.add_questions(questions, passages, shape.bool(), shape, shape.long())
    always, never = (Variant(ADist(passage_score=how)) for how in ("sum", "mean"))
    scores = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])
    collected.add_scores([0, 1], {always: scores, never: scores})
    collected.add_unrelated_scores([1], {always: 10 * scores[1:], never: -scores[1:]})
    assert kendall_tau(collected.scores(always), collected.unrelated_scores(always)).tolist()[1] == 1.0
    assert kendall_tau(collected.scores(never), collected.unrelated_scores(never)).tolist()[1] == -1.0
    assert collected.unrelated_scores(always)[0].isnan().all()
    shuffled = replace(always, order=Order.SHUFFLED)
    assert torch.equal(collected.unrelated_scores(shuffled)[1], 10 * scores[1])
