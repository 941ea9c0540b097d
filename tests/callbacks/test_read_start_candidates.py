"""Readers that stay or get worse, beside a retriever whose passages get harder: only the reader counts."""

import hashlib

import numpy as np
import pytest
import torch
from lightning import Callback

from callbacks.log_indicators import LogIndicators
from callbacks.read_start_candidates import ReadStartCandidates
from callbacks.refresh_index import RefreshIndex
from callbacks.save_last import SaveLast
from callbacks.stop_on_indicators import MONITORS, StopOnIndicators
from lightning_modules.optimization import LearningRate, LearningRateDecay
from tests.tiny_models import toy_passages, toy_questions
from tests.toy_training import LIGHTNING_ADVICE, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)

STAYS = LearningRate(0.0, decay=LearningRateDecay.CONSTANT)
PASSAGES = {passage.id: passage for passage in toy_passages()}


def draw(*parts) -> float:
    """The same number, 0 to 1, for the same parts."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


class Simulation(Callback):
    """A teacher that likes passages about capitals, among them the right one not more than the others.

    The start retrieves the right capital and rivers; later the other passages are capitals, which this
    teacher cannot tell from the right one. From `worse_at` on it likes passages at random.
    """

    def __init__(self, module, worse_at: int | None = None) -> None:
        self.worse_at = worse_at
        self.module = module
        self.num_read = 0
        self._asked: tuple = ()
        module.retrieve = self.retrieve
        read_questions = module.read_questions

        def noted(batch):
            self._asked = (batch.questions, batch.passages)
            self.num_read += len(batch)
            return read_questions(batch)

        module.read_questions = noted
        object.__setattr__(module.objective, "log_p_target", self.log_p_target)

    def retrieve(self, questions, k):
        others = "r" if self.module.trainer.global_step == 0 else "c"
        found = []
        for question in questions:
            right = int(question.id[1:])
            ranks = [(right + place) % 12 for place in range(1, 5)]
            found.append([PASSAGES[f"c{right}"], *(PASSAGES[f"{others}{rank}"] for rank in ranks)])
        return found

    def log_p_target(self, output, log_p_retr):
        if torch.is_grad_enabled():  # what is trained on does not matter
            return type(self.module.objective).log_p_target(self.module.objective, output, log_p_retr)
        step = self.module.trainer.global_step
        is_worse = self.worse_at is not None and step >= self.worse_at
        scores = [
            [
                draw(question.id, passage.id, step) if is_worse else self.liking(question, passage)
                for passage in found
            ]
            for question, found in zip(*self._asked, strict=True)
        ]
        return torch.tensor(scores).log_softmax(dim=-1)

    @staticmethod
    def liking(question, passage) -> float:
        return float(passage.id.startswith("c")) + 0.1 * draw(question.id, passage.id)


def simulate(folder, worse_at=None, monitors=MONITORS[:2]):
    """Stopping, what each validation logged, and the simulation; eight steps, a validation after each."""
    module = toy_module(folder, train_reader=True, reader_rate=STAYS, generate=False, hit_rate_ks=(1, 5))
    simulation = Simulation(module, worse_at)
    indicators, candidates = LogIndicators(), ReadStartCandidates()
    stopping = StopOnIndicators(
        indicators, monitors, num_validations=8, start_candidates=candidates, patience=2
    )
    logged = Logged()
    index = RefreshIndex("-1", folder / "index", show_progress=False, before_validation=True)
    trainer = toy_trainer(
        folder,
        [index, indicators, candidates, stopping, logged],
        max_steps=8,
        limit_val_batches=1.0,
        val_check_interval=1,
    )
    data = toy_datamodule(validation=toy_questions(), evaluation_batch_size=4)
    trainer.validate(module, data, verbose=False)
    assert simulation.num_read == 12, "the start's candidates are read once"
    trainer.fit(module, data)
    return stopping, logged.metrics, simulation


class Logged(Callback):
    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []

    def on_validation_end(self, trainer, pl_module) -> None:
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def test_an_unchanged_teacher_is_not_stopped_by_harder_passages(tmp_path):
    stopping, logged, simulation = simulate(tmp_path)
    assert (stopping.reason, len(logged)) == (None, 9)
    assert logged[0]["teacher/auc"] == logged[0]["start_candidates/teacher/auc"] == 1
    for metrics in logged[1:]:
        assert metrics["teacher/auc"] < 0.7
        assert metrics["start_candidates/teacher/auc"] == 1
        for name in ("indicator1/spearman_p90", "indicator2/attention_p95"):
            name = f"start_candidates/{name}"
            assert metrics[name] == pytest.approx(logged[0][name], abs=1e-6, nan_ok=True)
    assert simulation.num_read == 12 * (1 + 2 * 8), "read twice where they differ"


def test_the_teacher_on_what_is_retrieved_now_would_have_been_stopped(tmp_path):
    """The simulation is one in which the present passages mislead."""
    stopping, logged, _ = simulate(tmp_path, monitors=["teacher/auc"])
    assert (stopping.reason, len(logged)) == ("ineffective", 3)
    assert "the reader teaches worse on what is retrieved now" in stopping.message


def test_a_reader_that_gets_worse_on_fixed_passages_is_stopped(tmp_path):
    stopping, logged, _ = simulate(tmp_path, worse_at=3)
    assert (stopping.reason, len(logged)) == ("ineffective", 5)
    assert stopping.decisions[0].metric == "start_candidates/teacher/auc"
    assert "the reader has become a worse teacher" in stopping.message


def train(folder, max_steps, ckpt_path=None, rate=STAYS, start=None):
    """Real models; a retriever that moves."""
    indicators, candidates, logged = LogIndicators(), ReadStartCandidates(), Logged()
    if start is not None:
        candidates.candidates = start
    index = RefreshIndex("-1", folder / "index", show_progress=False, before_validation=True)
    trainer = toy_trainer(
        folder,
        [index, indicators, candidates, SaveLast(folder / "last.ckpt", 1), logged],
        max_steps=max_steps,
        limit_val_batches=1.0,
        val_check_interval=1,
    )
    fast = LearningRate(1e-2, decay=LearningRateDecay.CONSTANT)
    module = toy_module(folder, train_reader=True, retriever_rate=fast, reader_rate=rate, generate=False)
    data = toy_datamodule(validation=toy_questions())
    if ckpt_path is None and start is None:
        trainer.validate(module, data, verbose=False)
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return candidates, logged.metrics


def of_start(metrics):
    return {name: value for name, value in metrics.items() if name.startswith("start_candidates/")}


def test_resuming_goes_on_with_the_same_passages(tmp_path):
    for name in ("whole", "killed", "again"):
        (tmp_path / name).mkdir()
    rate = LearningRate(1e-2, decay=LearningRateDecay.CONSTANT)
    whole, expected = train(tmp_path / "whole", 4, rate=rate)
    assert len(whole.candidates) == 12
    assert all(len(ids) == 5 for ids in whole.candidates.values())
    assert of_start(expected[4]) != pytest.approx(of_start(expected[0]), nan_ok=True)
    train(tmp_path / "killed", 2, rate=rate)
    resumed, metrics = train(tmp_path / "killed", 4, tmp_path / "killed" / "last.ckpt", rate=rate)
    assert resumed.candidates == whole.candidates
    for after, before in zip(metrics, expected[3:], strict=True):
        assert of_start(after) == pytest.approx(of_start(before), abs=1e-6, nan_ok=True)
    # a run that was killed before its first checkpoint has them from the metrics of its start
    _, metrics = train(tmp_path / "again", 4, rate=rate, start=whole.candidates)
    assert of_start(metrics[3]) == pytest.approx(of_start(expected[4]), abs=1e-6, nan_ok=True)


def test_questions_keep_their_values(tmp_path):
    candidates, logged = train(tmp_path, 2)
    found = candidates.latest_questions
    assert sorted(found.question_ids) == sorted(candidates.candidates)
    values = found.values["start_candidates/indicator1/attention_p90"]
    mean = logged[-1]["start_candidates/indicator1/attention_p90"]
    assert np.nanmean(values) == pytest.approx(mean, abs=1e-6)
