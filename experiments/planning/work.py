"""How much a run does of what: passages encoded, steps, searches, questions read and answered."""

from dataclasses import dataclass

from callbacks.measure_staleness import MeasureStaleness
from callbacks.refresh_schedule import RefreshSchedule, parse_refresh
from datamodules.sources import question_split
from datamodules.vital import VITAL, vital_questions_file
from experiments.config import ExperimentConfig, measures_staleness, trains
from experiments.data_files import read_data_split
from experiments.planning.setup import Setup
from experiments.processes import num_processes
from lightning_modules.objectives import OBJECTIVES
from lightning_modules.objectives.base import Cost

_SHARE_NEW = 0.4
"""Of the passages that a question is read with again: how many another weight of the retriever finds anew."""


@dataclass(frozen=True)
class Work:
    """Counts; of several processes those of all together.

    Attributes:
        refresh_steps: training steps at which the index is made anew.
        final_encodings: 1 where the final test needs an index of its own, else 0.
        num_validations: the start's included.
        part_passages: encoded for each validation.
        probe_passages: encoded to measure how stale the index is.
        num_steps: optimizer steps.
        batches_a_step: of a process: searches, too, unless candidates are fixed.
        questions_a_step: of all processes.
        fixed_questions: training questions whose candidates are found before the first step.
        taught_questions: reading that training does for the retriever, in questions.
        validation_questions, validation_read, validation_answered: in all validations.
        num_tests: the start's included.
        test_questions, test_read, test_answered: in all tests.
    """

    refresh_steps: tuple[int, ...]
    final_encodings: int
    num_validations: int
    part_passages: int
    probe_passages: int
    num_steps: int
    batches_a_step: int
    questions_a_step: int
    fixed_questions: int
    taught_questions: float
    validation_questions: int
    validation_read: float
    validation_answered: int
    num_tests: int
    test_questions: int
    test_read: float
    test_answered: int


def count_work(setup: Setup) -> Work:
    """What a run does, from its settings.

    A frozen reader's outputs are kept (`ReadOnce`): what is read again counts as far as it is likely to be
    new, and what other runs have kept is not known. A run that decides to stop does less.

    Raises:
        DataError: a question file that is not published is missing or broken.
    """
    config = setup.config
    is_trained = trains(config)
    steps = config.trainer.max_steps if is_trained else 0
    num_validations = 1 + steps // config.trainer.validate_every_steps if is_trained else 0
    num_tests = 2 if is_trained else 1
    batches = config.trainer.accumulate
    questions_a_step = batches * config.data.batch_size * num_processes(config)
    num_validation, num_test = num_questions(config, "validation"), num_questions(config, "test")
    read, read_test = config.evaluation.num_read, config.evaluation.num_read_test
    read = num_validation if read is None else min(read, num_validation)
    read_test = num_test if read_test is None else min(read_test, num_test)
    if not setup.has_reader:
        read = read_test = 0
    answers = config.evaluation.generate_in_validation
    return Work(
        refresh_steps=refresh_steps(setup),
        final_encodings=int(setup.trains_passage_encoder and steps > 0),
        num_validations=num_validations,
        part_passages=setup.num_in_part,
        probe_passages=_probed(setup, num_validations),
        num_steps=steps,
        batches_a_step=batches,
        questions_a_step=questions_a_step,
        fixed_questions=num_questions(config, "train") if is_trained and config.retrieval.are_fixed else 0,
        taught_questions=_taught(setup, steps * questions_a_step),
        validation_questions=num_validations * num_validation,
        validation_read=_read_again(setup, read, num_validations) * _times_read(setup),
        validation_answered=num_validations * read * answers,
        num_tests=num_tests,
        test_questions=num_tests * num_test,
        test_read=_read_again(setup, read_test, num_tests),
        test_answered=num_tests * read_test,
    )


def num_questions(config: ExperimentConfig, split: str) -> int:
    """Of a split, as published, or as its file says.

    Raises:
        DataError: as `read_data_split`.
    """
    name, limit = getattr(config.data, split), getattr(config.data, f"max_{split}")
    published = question_split(name)
    if published is not None and config.data.verify_sizes:
        total = published.num_questions
    elif name == VITAL:
        total = len(vital_questions_file(split).read_text().splitlines())
    else:
        total = len(read_data_split(config, split, limit))
    return total if limit is None else min(total, limit)


def validation_steps(config: ExperimentConfig) -> range:
    """Training steps after which there is a validation."""
    every = config.trainer.validate_every_steps
    return range(every, config.trainer.max_steps + 1, every) if trains(config) else range(0)


def refresh_steps(setup: Setup) -> tuple[int, ...]:
    """Training steps at which the index is made anew; with `when_stale` those of the validations, at most."""
    config = setup.config
    if not setup.trains_passage_encoder:
        return ()
    schedule, validations = parse_refresh(config.index.refresh), validation_steps(config)
    if not isinstance(schedule, RefreshSchedule):
        return tuple(validations)
    # one that is due after the last step is done where a validation is
    steps = {*validations} if config.index.refresh_before_validation else set()
    due = schedule.next_due(1)
    while due is not None and due <= config.trainer.max_steps:
        if due < config.trainer.max_steps or due in validations:
            steps.add(due)
        due = schedule.next_due(due + 1)
    return tuple(sorted(steps))


def indices_of_run(setup: Setup) -> int:
    """Most indices that the run's folder holds at a time, the one that is being made included.

    While one is made, that of the last checkpoint alone is kept beside it; the start's is elsewhere.
    """
    if not setup.trains_passage_encoder:
        return 0
    config = setup.config
    refreshes, validations = refresh_steps(setup), validation_steps(config)
    every, last = config.trainer.checkpoint_every_steps, config.trainer.max_steps
    in_use = in_checkpoint = 0  # the steps at which they were made
    most = 1
    for step in sorted({*refreshes, *range(every, last + 1, every)}):
        is_saved_first = step % every == 0 and step not in validations
        if is_saved_first:
            in_checkpoint = in_use
        if step in refreshes:
            most = max(most, 1 + (in_checkpoint > 0))
            in_use = step
        if step % every == 0 and not is_saved_first:
            in_checkpoint = in_use
    return max(most, 1 + (in_checkpoint > 0))  # the final test's


def _times_read(setup: Setup) -> int:
    """A reader that is trained is also measured on the passages of the start, where they have changed."""
    return 2 if setup.trains_reader and setup.trains_retriever else 1


def _read_again(setup: Setup, num_read: int, num_evaluations: int) -> float:
    """Questions of all evaluations that have to be read."""
    if not setup.keeps_outputs or num_evaluations == 0:
        return num_read * num_evaluations
    share = _SHARE_NEW if setup.trains_retriever else 0.0
    return num_read * (1 + share * (num_evaluations - 1))


def _taught(setup: Setup, num_asked: int) -> float:
    if not setup.needs_teacher:
        return 0
    if not setup.keeps_outputs or OBJECTIVES[setup.config.objective.name].cost is Cost.BACKWARD:
        return num_asked
    first = min(num_asked, num_questions(setup.config, "train"))
    is_same = setup.config.retrieval.are_fixed and setup.config.training.answer_choice != "sampled"
    return first + (0.0 if is_same else _SHARE_NEW) * (num_asked - first)


def _probed(setup: Setup, num_validations: int) -> int:
    if not measures_staleness(setup.config):
        return 0
    meter = MeasureStaleness(setup.config.index.staleness_every_steps)
    measured = num_validations
    if meter.every_steps is not None:
        measured += setup.config.trainer.max_steps // meter.every_steps
    return measured * min(meter.num_passages, setup.num_passages or 0)
