"""Objectives that need no reader: what a good teacher must beat."""

import math

import pytest
import torch

from callbacks.refresh_index import RefreshIndex
from datamodules.batches import Batch, Passage, Question
from lightning_modules.evaluation import find_hits
from lightning_modules.objectives import Labels, make_objective
from tests.tiny_models import toy_passages, toy_questions
from tests.toy_training import toy_datamodule, toy_module, toy_trainer


class NoReader:
    """Any pass is an error."""

    def read(self, batch):
        raise AssertionError("a control reads nothing")

    answer_likelihoods = read_drops = read_signals = read_question = read_weighted = read


def batch() -> Batch:
    questions, passages = toy_questions()[:2], toy_passages()
    return Batch(questions, [passages[:3], [passages[0], passages[13], passages[20]]], ["x", "y"])


def test_uniform_teaches_every_passage_alike_and_reads_nothing():
    objective = make_objective("uniform")
    log_p_retr = torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 3.0]]).log_softmax(dim=-1).requires_grad_()
    output = objective.read(NoReader(), batch())
    log_p_target = objective.log_p_target(output, log_p_retr)
    assert log_p_target.exp().flatten().tolist() == pytest.approx([1 / 3] * 6)
    loss = objective.loss(log_p_target, log_p_retr, output)
    by_hand = sum(math.log(1 / 3) - q for row in log_p_retr.tolist() for q in row) / 3 / 2
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    loss.backward()
    assert log_p_retr.grad.abs().sum() > 0, "it pulls p_RETR towards even"


def test_length_teaches_to_prefer_long_passages():
    asked = batch()
    objective = make_objective("length", attention_temperature=0.5)
    log_p_retr = torch.zeros(2, 3).log_softmax(dim=-1)
    log_p_target = objective.log_p_target(objective.read(NoReader(), asked), log_p_retr)
    for found, row in zip(asked.passages, log_p_target.exp().tolist(), strict=True):
        # softmax of log(words) / 0.5 is words^2 as shares
        squares = [len(passage.text.split()) ** 2 for passage in found]
        assert row == pytest.approx([square / sum(squares) for square in squares], rel=1e-5)


@pytest.mark.parametrize("name", ["uniform", "length"])
@pytest.mark.filterwarnings("ignore")
def test_a_control_trains_the_retriever_alone(tmp_path, name):
    module = toy_module(tmp_path, objective=name)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    module.reader.read = module.reader.read_answer = None  # nothing may be read in training
    trainer = toy_trainer(
        tmp_path, [RefreshIndex("-1", tmp_path / "index", show_progress=False)], max_steps=2
    )
    trainer.fit(module, toy_datamodule())
    changed = {
        key.split(".")[0] for key, value in module.state_dict().items() if not before[key].equal(value)
    }
    assert changed == {"retriever"}


class TestLabels:
    def batch(self):
        questions = [Question("a", "?", ("Paris",)), Question("b", "?", ("Rome",))]
        texts = [("Paris is nice", "in Paris", "Oslo"), ("Oslo", "Lima", "Cairo")]
        return Batch(questions, [[Passage(text, "", text) for text in found] for found in texts])

    def test_a_passage_holds_an_answer_where_the_hit_rate_says_so(self, tmp_path):
        for match, expected in (("tokens", [False, True]), ("substring", [True, True])):
            module = toy_module(tmp_path, objective="labels", answer_match=match)
            batch = Batch(
                [Question("a", "?", ("Beatle",))],
                [[Passage("x", "", "a Beatlesque sound"), Passage("y", "", "a Beatle")]],
            )
            assert module.objective.read(NoReader(), batch).tolist() == [expected]
            assert find_hits(batch.questions, batch.passages, module.answer_match).tolist() == [expected]
            others = module.objective.positives_among(batch.questions, batch.passages)
            assert others.tolist() == [[expected]]

    def test_positive_passages_share_the_target(self):
        objective, batch = Labels(), self.batch()
        output = objective.read(NoReader(), batch)
        assert output.tolist() == [[True, True, False], [False, False, False]]
        p = objective.log_p_target(output, torch.zeros(2, 3)).exp()
        torch.testing.assert_close(p[0], torch.tensor([0.5, 0.5, 0.0]))

    def test_a_question_without_a_positive_passage_teaches_nothing(self):
        objective, batch = Labels(), self.batch()
        logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
        log_p_retr = logits.log_softmax(dim=-1)
        output = objective.read(NoReader(), batch)
        loss = objective.loss(objective.log_p_target(output, log_p_retr.detach()), log_p_retr, output)
        loss.backward()
        p = log_p_retr[0].exp()
        expected = sum(0.5 * math.log(0.5 / p[i].item()) for i in (0, 1)) / 2
        assert loss.item() == pytest.approx(expected, rel=1e-5)
        assert logits.grad[1].abs().max() < 1e-6
        torch.testing.assert_close(logits.grad[0], (p - torch.tensor([0.5, 0.5, 0.0])) / 2)

    def test_other_questions_passages_with_an_answer_are_no_negatives(self):
        objective, batch = Labels(), self.batch()
        passages = [*batch.passages, [Passage("x", "", text) for text in ("Rome and Paris", "to Rome", "no")]]
        found = objective.positives_among(batch.questions, passages)
        expected = [
            [[True, True, False], [False, False, False], [True, False, False]],
            [[False, False, False], [False, False, False], [True, True, False]],
        ]
        assert found.tolist() == expected
