"""Given scores: the target is their softmax, and a retriever without a reader learns their order."""

import pytest
import torch

from datamodules.batches import Batch
from datamodules.score_files import ScoredQuestion
from lightning_modules.objectives import Given
from lightning_modules.objectives.base import TeachingPasses
from lightning_modules.optimization import LearningRate, LearningRateDecay
from lightning_modules.retriever_reader import RetrieverReaderModule
from tests.tiny_models import tiny_retriever, toy_knowledge_base, toy_passages, toy_questions
from tests.toy_training import LIGHTNING_ADVICE, toy_datamodule, toy_trainer


def scored_questions() -> dict[str, ScoredQuestion]:
    """The rivers of the question's country, which no answer is in, are said to be best."""
    passages = toy_passages()
    return {
        question.id: ScoredQuestion(
            question, (passages[i], passages[12 + i], passages[(i + 1) % 12]), (0.0, 3.0, -1.0)
        )
        for i, question in enumerate(toy_questions())
    }


def test_the_target_is_the_softmax_of_the_scores_whatever_the_order_of_the_passages():
    objective = Given(attention_temperature=2.0, scored=scored_questions())
    question = toy_questions()[0]
    passages = [objective.passages_of(question)[i] for i in (2, 0, 1)]
    batch = Batch([question], [passages], [""])
    log_p = objective.log_p_target(objective.read(TeachingPasses(None), batch), torch.zeros(1, 3))
    torch.testing.assert_close(log_p, torch.tensor([[-0.5, 0.0, 1.5]]).log_softmax(dim=-1))


@pytest.mark.filterwarnings(*LIGHTNING_ADVICE)
def test_a_retriever_learns_them_without_a_reader(tmp_path):
    torch.manual_seed(0)
    objective = Given(scored=scored_questions())
    module = RetrieverReaderModule(
        tiny_retriever(normalize=True),
        None,
        toy_knowledge_base(tmp_path),
        objective=objective,
        retrieval_temperature=0.05,
        retriever_rate=LearningRate(1e-2, decay=LearningRateDecay.CONSTANT),
        num_passages=3,
        hit_rate_ks=(1, 5),
    )
    questions = toy_questions()
    batch = Batch(questions, [objective.passages_of(question) for question in questions], [""] * 12)
    with torch.no_grad():
        before = module.log_p_retr(batch)[:, 1].exp().mean()
    toy_trainer(tmp_path, [], max_steps=20).fit(module, toy_datamodule())
    with torch.no_grad():
        after = module.log_p_retr(batch)[:, 1].exp().mean()
    assert after > before + 0.1


def test_any_other_objective_asks_a_reader(tmp_path):
    with pytest.raises(ValueError, match="objective adist asks one"):
        RetrieverReaderModule(tiny_retriever(), None, toy_knowledge_base(tmp_path))
