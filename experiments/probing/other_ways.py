"""The questions of a pre-flight check read in the other ways: contexts, orders, objectives, an unrelated
question."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.batches import Passage, Question
from datamodules.prompts import Context, PassageOrder, Shown
from experiments.probing.reading import Probe, first_answers, in_batches
from lightning_modules.eval_mode import eval_mode
from lightning_modules.readers.reader import Reader
from lightning_modules.teacher_variants import (
    Order,
    Scores,
    attention_scores,
    averaged_over_orders,
    context_of,
    in_context,
    likelihood_scores,
    prompt_positions,
    read_alone,
    read_left_out,
)

_UNRELATED_ORDER = 1000
"""Seed of the order in which an unrelated question sees the passages: one that no other pass uses."""


def read_other_ways(probe: Probe) -> None:
    """Reads the first questions that have both kinds of passages in every way but the configured one.

    Args:
        probe: that has read its questions as configured; its `collected` scores take what is found.
    """
    kinds = probe.collected.has_answer
    rows = (kinds.any(dim=1) & ~kinds.all(dim=1)).nonzero()[:, 0].tolist()[: probe.settings.num_compared]
    context = context_of(probe.reader)
    batches = _batches(probe, rows)
    for batch in batches:
        if context is not Context.INDEPENDENT:
            _read_each_alone(probe, batch)
        if context is Context.CONCATENATED:
            _read_independent(probe, batch)
        if context is not None:
            _read_in_orders(probe, batch)
        probe.progress(len(batch.rows))
    _ask_unrelated(probe, batches)
    _read_left_out(probe, rows[: probe.settings.num_left_out])


@dataclass(frozen=True)
class _Batch:
    """Questions with their passages, and the rows of the collected scores that are theirs."""

    rows: list[int]
    questions: list[Question]
    passages: list[list[Passage]]
    log_p_retr: Float[Tensor, "batch passages"]

    @property
    def answers(self) -> list[str]:
        return first_answers(self.questions)


def _batches(probe: Probe, rows: Sequence[int]) -> list[_Batch]:
    batches = []
    for of_batch in in_batches(rows, probe.settings.batch_size):
        questions = [probe.collected.questions[row] for row in of_batch]
        log_p_retr = probe.collected.log_p_retr[of_batch].to(probe.module.device)
        batches.append(_Batch(of_batch, questions, probe.retrieve(questions), log_p_retr))
    return batches


@torch.no_grad()
def _read_each_alone(probe: Probe, batch: _Batch) -> None:
    """PDist and EMDR2 in the configured context."""
    reader = probe.reader
    with eval_mode(reader):
        likelihoods = reader.answer_likelihoods(
            batch.questions, batch.passages, batch.answers, Shown.EACH_ALONE
        )
    scores = likelihood_scores(likelihoods, batch.log_p_retr, context_of(reader))
    probe.collected.add_scores(batch.rows, scores)


@torch.no_grad()
def _read_independent(probe: Probe, batch: _Batch) -> None:
    reader = in_context(probe.original, Context.INDEPENDENT)
    with eval_mode(reader):
        reading = reader.read(batch.questions, batch.passages, batch.answers, with_labels=True)
    likelihoods = read_alone(reader, reading, batch.questions, batch.passages, batch.answers)
    probe.collected.add_scores(batch.rows, attention_scores(reading, Context.INDEPENDENT))
    scores = likelihood_scores(likelihoods, batch.log_p_retr, Context.INDEPENDENT)
    probe.collected.add_scores(batch.rows, scores)


@torch.no_grad()
def _read_in_orders(probe: Probe, batch: _Batch) -> None:
    """Attention in one prompt for all, by rank, shuffled, and averaged over several orders."""
    by_order: list[Scores] = []
    for seed in range(probe.settings.num_orders):
        order = Order.RANK if seed == 0 else Order.SHUFFLED
        reader = in_context(probe.original, Context.CONCATENATED, PassageOrder(order.value))
        with eval_mode(reader):
            reading = reader.read(batch.questions, batch.passages, batch.answers, order_seed=seed)
        scores = attention_scores(reading, Context.CONCATENATED, order)
        by_order.append(scores)
        if seed < 2:  # further orders only serve the average
            probe.collected.add_scores(batch.rows, scores)
            probe.collected.add_positions(batch.rows, order, prompt_positions(reading.prompts))
    probe.collected.add_scores(batch.rows, averaged_over_orders(by_order))


def _read_left_out(probe: Probe, rows: Sequence[int]) -> None:
    """LOOP where it takes prompts of several passages: K prompts of K - 1 passages a question."""
    reader = in_context(probe.original, Context.CONCATENATED)
    context = context_of(reader)
    for row in rows:
        (batch,) = _batches(probe, [row])
        likelihoods = read_left_out(reader, batch.questions, batch.passages, batch.answers)
        probe.collected.add_scores([row], likelihood_scores(likelihoods, batch.log_p_retr, context))
        probe.progress(1)


def _ask_unrelated(probe: Probe, batches: Sequence[_Batch]) -> None:
    """Asks of each question's passages what the next question asks: which does a teacher prefer always?"""
    questions = [question for batch in batches for question in batch.questions]
    if len(questions) < 2:
        return
    following = iter([*questions[1:], questions[0]])
    contexts = [None] if context_of(probe.reader) is None else list(Context)
    for batch in batches:
        asked = list(islice(following, len(batch.rows)))
        with torch.no_grad(), eval_mode(probe.module.retriever):
            log_p_retr = probe.module.log_p_retr(asked, batch.passages)
        unrelated = replace(batch, questions=asked, log_p_retr=log_p_retr)
        for context in contexts:
            # in another order, so that a preference for a place in the prompt is none for a passage
            order = PassageOrder.SHUFFLED
            reader = probe.reader if context is None else in_context(probe.original, context, order)
            probe.collected.add_unrelated_scores(batch.rows, _unrelated_scores(probe, reader, unrelated))
        probe.progress(len(batch.rows))


@torch.no_grad()
def _unrelated_scores(probe: Probe, reader: Reader, batch: _Batch) -> Scores:
    """Attention, and where a pass shows each passage alone the likelihoods too."""
    shown, context = (batch.questions, batch.passages, batch.answers), context_of(reader)
    alone = context is Context.INDEPENDENT
    with eval_mode(reader):
        reading = reader.read(*shown, order_seed=_UNRELATED_ORDER, with_labels=alone)
    scores = attention_scores(reading, context)
    if alone:
        scores |= likelihood_scores(read_alone(reader, reading, *shown), batch.log_p_retr, context)
    if context is context_of(probe.reader):
        scores |= probe.scores_of_divided_logits(batch.questions, batch.passages, batch.log_p_retr)
    return scores
