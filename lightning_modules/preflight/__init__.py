"""The pre-flight check: is a reader worth distilling? Reads some questions, and trains nothing."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from datamodules.batches import Question
from lightning_modules.encoding import build_index
from lightning_modules.preflight.choosing import PreflightSettings, choose_questions
from lightning_modules.preflight.configured import ConfiguredTeacher
from lightning_modules.preflight.head_sets import unlisted_methods
from lightning_modules.preflight.other_passes import read_otherwise
from lightning_modules.preflight.result import HeadChoice, PreflightResult, is_clear, make_result
from lightning_modules.preflight.rows import TeacherRow
from lightning_modules.preflight.verdict import Advice, Verdict
from lightning_modules.reranker import Reranker
from lightning_modules.retriever_reader import RetrieverReaderModule

__all__ = [
    "Advice",
    "HeadChoice",
    "PreflightResult",
    "PreflightSettings",
    "Progress",
    "TeacherRow",
    "Verdict",
    "preflight",
]


@runtime_checkable
class Bar(Protocol):
    """What shows how far a piece of work is, such as tqdm's."""

    def update(self, n: int) -> object: ...


Progress = Callable[[str, int | None], contextlib.AbstractContextManager[Bar]]
"""Begins a piece of work on some questions, None = nobody knows how many, and makes the bar that shows it."""


def preflight(
    module: RetrieverReaderModule,
    questions: Sequence[Question],
    settings: PreflightSettings | None = None,
    *,
    percentiles: Sequence[int] = (90, 95),
    stops_early: bool = True,
    progress: Progress | None = None,
    tag: Callable[[list[Question]], list[Question]] | None = None,
    unrelated: Sequence[tuple[str, str]] = (),
    reranker: Reranker | None = None,
) -> PreflightResult:
    """Says of a teacher, before it teaches, whether the retriever should learn from it.

    Reads questions as training would, with the module's reader, retriever and objective; the first of them
    that have a positive and a negative passage also in other contexts and orders of the passages, and by the
    other objectives. Nothing is trained, and the module stays as it is.

    Args:
        module: on the device that it should run on. Where it has no index, an exact one of its knowledge base
            is built in memory, for the check alone.
        questions: with their answers, and with their nouns for Indicator 2.
        settings: how much is read.
        percentiles: the p's of the indicators.
        stops_early: whether to read no more once the verdict is clear.
        progress: shows what was read.
        tag: finds the nouns of the questions that were chosen to be read, where they are not known yet
            (`datamodules.nouns.NounTagger.tag`).
        unrelated: (question, answer) pairs to calibrate by, where calibrations are compared.
        reranker: what the reader is compared with, on all questions that are read.

    Raises:
        ValueError: there are no questions.
    """
    settings = settings or PreflightSettings()
    progress = progress or _no_progress
    with contextlib.ExitStack() as stack:
        if module.index is None:
            index = build_index(module.retriever, module.knowledge_base)
            stack.enter_context(module.evaluating(index=index))
        chosen = choose_questions(module, questions, settings)
        asked = tag(chosen.questions) if tag else chosen.questions
        teacher = ConfiguredTeacher(module, percentiles, unrelated)

        def is_enough() -> bool:
            return stops_early and is_clear(teacher.collected, teacher.variant)

        with progress("Reading", len(asked)) as bar:
            stopped_early = teacher.read(asked, settings, is_enough, bar.update)
        teacher.judge_unlisted_heads()
        teacher.score_by_bm25()
        with progress("Comparing variants", None) as bar:
            read_otherwise(teacher, settings, bar.update)
        if reranker is not None:
            with progress("Reranking", len(teacher.collected.questions)) as bar:
                teacher.rerank(reranker, settings.batch_size, bar.update)
    notes = _notes(teacher, settings, unrelated)
    return make_result(teacher, chosen, percentiles, stopped_early, notes)


def _notes(
    teacher: ConfiguredTeacher, settings: PreflightSettings, unrelated: Sequence[tuple[str, str]]
) -> list[str]:
    """Of rows that are missing or not what was asked for, so that nothing is silently different."""
    notes: list[str | None] = []
    if settings.calibrations:
        notes.append(teacher.objectives.why_not_calibrated(teacher.reader, unrelated))
    unlisted = [f"{method}:{num_heads}" for method, num_heads in unlisted_methods(teacher.reader)]
    if unlisted:
        notes.append(
            f"no list of this reader's heads by {' or '.join(unlisted)} is shipped: these rows are held out, "
            "each question with the heads chosen on others, and no setting teaches like them; python -m "
            "experiments.select_heads makes a list"
        )
    return [note for note in notes if note is not None]


class _NoBar:
    def update(self, n: int) -> None:
        """Shows nothing."""


def _no_progress(work: str, num_questions: int | None) -> contextlib.AbstractContextManager[Bar]:
    return contextlib.nullcontext(_NoBar())
