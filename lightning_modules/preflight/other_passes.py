"""Further passes of a check: other prompts, costlier objectives, unrelated questions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.batches import Batch, in_batches
from datamodules.prompts import Context
from lightning_modules.eval_mode import eval_mode
from lightning_modules.objectives.base import Cost, Objective
from lightning_modules.preflight.choosing import PreflightSettings
from lightning_modules.preflight.configured import ConfiguredTeacher
from lightning_modules.preflight.passes import KeptPasses
from lightning_modules.preflight.placement import prompt_positions
from lightning_modules.preflight.variants import (
    Order,
    Scores,
    averaged_over_orders,
    shown_in,
    without_examples,
)
from lightning_modules.readers.base import Reader
from lightning_modules.retriever_reader import preferred_answers

_UNRELATED_ORDER = 1000
"""Seed of the order in which an unrelated question sees the passages: one that no other pass uses."""


def read_otherwise(
    teacher: ConfiguredTeacher, settings: PreflightSettings, progress: Callable[[int], object]
) -> None:
    """Reads the first questions that have a positive and a negative passage in every other pass.

    Args:
        teacher: that has read its questions as configured; its `collected` scores take what is found.
        settings: how many questions.
        progress: called with numbers of questions read.
    """
    rows = teacher.collected.has_both.nonzero()[:, 0].tolist()[: settings.num_compared]
    batches = _batches(teacher, rows, settings.batch_size)
    for read in batches:
        _read_each_alone(teacher, read)
        _read_in_other_contexts(teacher, read)
        _read_in_orders(teacher, read, settings.num_orders)
        _read_without_examples(teacher, read)
        if settings.calibrations:
            passes = _configured_passes(teacher, teacher.reader, read.batch)
            scores = passes.scores(teacher.calibrated, read.log_p_retr, teacher.reader.context)
            teacher.collected.add_scores(read.rows, scores)
        progress(len(read.rows))
    calibrated = teacher.calibrated if settings.calibrations else []
    _ask_unrelated(teacher, batches, calibrated, progress)
    _read_costly(teacher, rows[: settings.num_left_out], progress)


@dataclass(frozen=True)
class _Rows:
    """Rows of the collected scores, and what is read for them.

    Attributes:
        rows: which.
        batch: their questions with the K passages of each.
        log_p_retr: log p_RETR, on the module's device.
    """

    rows: list[int]
    batch: Batch
    log_p_retr: Float[Tensor, "batch passages"]


def _batches(teacher: ConfiguredTeacher, rows: Sequence[int], batch_size: int) -> list[_Rows]:
    module, collected = teacher.module, teacher.collected
    batches = []
    for of_batch in in_batches(rows, batch_size):
        questions = [collected.questions[row] for row in of_batch]
        passages = module.retrieve_candidates(questions)
        batch = Batch(questions, passages, preferred_answers(questions))
        batches.append(_Rows(of_batch, batch, collected.log_p_retr[of_batch].to(module.device)))
    return batches


def _configured_passes(teacher: ConfiguredTeacher, reader: Reader, batch: Batch) -> KeptPasses:
    """Of a reader that differs from the configured one at most in the order of the passages."""
    return KeptPasses(reader, batch, teacher.module.read_once)


def _read_each_alone(teacher: ConfiguredTeacher, read: _Rows) -> None:
    """Objectives that need each passage alone, where the configured prompts show several."""
    if teacher.reader.reads_alone:
        return
    objectives = teacher.objectives.costing(Cost.EACH_ALONE)
    passes = KeptPasses(teacher.reader, read.batch)
    scores = passes.scores(objectives, read.log_p_retr, teacher.reader.context)
    teacher.collected.add_scores(read.rows, scores)


def _read_in_other_contexts(teacher: ConfiguredTeacher, read: _Rows) -> None:
    """In those in which the order of the passages is nothing to choose."""
    for context in teacher.reader.contexts:
        if context not in (teacher.reader.context, Context.CONCATENATED):
            reader = shown_in(teacher.reader, context)
            passes = KeptPasses(reader, read.batch)
            objectives = teacher.objectives.of_pass(reader)
            scores = passes.scores(objectives, read.log_p_retr, context, head_sets=teacher.head_sets)
            teacher.collected.add_scores(read.rows, scores)


def _read_in_orders(teacher: ConfiguredTeacher, read: _Rows, num_orders: int) -> None:
    """In one prompt for all passages, where the reader can: by rank, shuffled, and averaged over orders."""
    context = Context.CONCATENATED
    if context not in teacher.reader.contexts:
        return
    collected, by_order = teacher.collected, []
    for seed in range(num_orders):
        order = Order.RANK if seed == 0 else Order.SHUFFLED
        reader = shown_in(teacher.reader, context, order)
        batch = replace(read.batch, order_seed=seed)
        passes = KeptPasses(reader, batch)
        objectives = teacher.objectives.of_pass(reader)
        scores = passes.scores(objectives, read.log_p_retr, context, order, teacher.head_sets)
        by_order.append(scores)
        if seed < 2:  # further orders only serve the average
            collected.add_scores(read.rows, scores)
            collected.add_positions(read.rows, order, prompt_positions(passes.read(batch).prompts))
    collected.add_scores(read.rows, averaged_over_orders(by_order))


def _read_without_examples(teacher: ConfiguredTeacher, read: _Rows) -> None:
    """As configured but for the solved examples, where there are some: do they change the teacher?"""
    if not teacher.reader.num_examples:
        return
    reader = teacher.reader.showing(examples=())
    objectives = [objective for objective in teacher.scored() if objective.uses_reader]
    passes = KeptPasses(reader, read.batch)
    scores = passes.scores(objectives, read.log_p_retr, reader.context, teacher.order, teacher.head_sets)
    teacher.collected.add_scores(read.rows, without_examples(scores))


def _read_costly(teacher: ConfiguredTeacher, rows: Sequence[int], progress: Callable[[int], object]) -> None:
    """Objectives that leave passages out, in prompts of several, or go back through the reader."""
    costly = [*teacher.objectives.costing(Cost.EACH_LEFT_OUT), *teacher.objectives.costing(Cost.BACKWARD)]
    readers = [shown_in(teacher.reader, context) for context in teacher.reader.contexts]
    for read in _batches(teacher, rows, batch_size=1):
        for reader in readers:
            if not reader.reads_alone:
                objectives = [objective for objective in costly if objective.unfit(reader) is None]
                passes = KeptPasses(reader, read.batch)
                scores = passes.scores(objectives, read.log_p_retr, reader.context)
                teacher.collected.add_scores(read.rows, scores)
        progress(1)


def _ask_unrelated(
    teacher: ConfiguredTeacher,
    batches: Sequence[_Rows],
    calibrated: Sequence[Objective],
    progress: Callable[[int], object],
) -> None:
    """Asks of each question's passages what the next question asks: which does a teacher prefer always?"""
    questions = [question for read in batches for question in read.batch.questions]
    if len(questions) < 2:
        return
    module = teacher.module
    following = iter([*questions[1:], questions[0]])
    for read in batches:
        asked = list(islice(following, len(read.rows)))
        batch = Batch(asked, read.batch.passages, preferred_answers(asked), _UNRELATED_ORDER)
        with torch.no_grad(), eval_mode(module.retriever):
            unrelated = _Rows(read.rows, batch, module.log_p_retr(batch))
        for context in teacher.reader.contexts:
            # in another order, so that a preference for a place in the prompt is none for a passage
            reader = shown_in(teacher.reader, context, Order.SHUFFLED)
            scores = _unrelated(teacher, reader, unrelated, calibrated)
            teacher.collected.add_unrelated_scores(read.rows, scores)
        if teacher.reader.num_examples:
            bare = shown_in(teacher.reader, teacher.reader.context, Order.SHUFFLED).showing(examples=())
            scores = without_examples(_unrelated(teacher, bare, unrelated))
            teacher.collected.add_unrelated_scores(read.rows, scores)
        progress(len(read.rows))


def _unrelated(
    teacher: ConfiguredTeacher, reader: Reader, read: _Rows, calibrated: Sequence[Objective] = ()
) -> Scores:
    """By what one pass scores, and in the configured context by what is scored there alone."""
    objectives, passes = teacher.objectives.of_pass(reader), KeptPasses(reader, read.batch)
    if reader.context == teacher.reader.context:
        objectives += [*teacher.objectives.of_no_pass, *teacher.objectives.only_configured, *calibrated]
        if reader.num_examples == teacher.reader.num_examples:
            passes = _configured_passes(teacher, reader, read.batch)
    return passes.scores(objectives, read.log_p_retr, reader.context, head_sets=teacher.head_sets)
