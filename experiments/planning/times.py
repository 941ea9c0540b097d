"""How long a run takes: how much it does of what, times how long each takes."""

from dataclasses import dataclass
from math import ceil

from experiments.planning.setup import Setup
from experiments.planning.work import Work
from experiments.processes import num_processes
from lightning_modules.retrieval import RETRIEVED_TOGETHER

FROM_ARITHMETIC = (
    "estimated from the arithmetic of the models; --calibrate measures, on the machine of the run"
)
MEASURED = "measured on this machine, with a few batches of the experiment's own"


@dataclass(frozen=True)
class Rates:
    """Seconds that things take on one device.

    Attributes:
        load: reading models and data.
        passage: encoding one for an index.
        search: a batch of questions, in the whole index.
        search_part: likewise, in the part that validations search.
        step: an optimizer step, without its searches and what teaches the retriever.
        taught: what teaches the retriever, of one question.
        found: a question that an evaluation retrieves for, without the search.
        read: a question that an evaluation reads.
        answered: a question that it answers.
        source: where they come from.
    """

    load: float
    passage: float
    search: float
    search_part: float
    step: float
    taught: float
    found: float
    read: float
    answered: float
    source: str = FROM_ARITHMETIC


@dataclass(frozen=True)
class TimePart:
    """Seconds of one thing.

    Attributes:
        group: encoding, refreshing, training, validation or testing; loading.
        name: for people.
        seconds: of all devices at once.
    """

    group: str
    name: str
    seconds: float


def times_of(setup: Setup, work: Work, rates: Rates) -> tuple[TimePart, ...]:
    """Where the time of a run goes."""
    parts = (
        TimePart("loading", "models and data", rates.load),
        *_of_passages(setup, work, rates),
        *_of_training(setup, work, rates),
        *_of_validations(setup, work, rates),
        *_of_tests(setup, work, rates),
    )
    return tuple(part for part in parts if part.seconds)


def _of_passages(setup: Setup, work: Work, rates: Rates) -> tuple[TimePart, ...]:
    devices, count = num_processes(setup.config), setup.num_passages or 0
    whole = count * rates.passage / devices
    num_refreshes = len(work.refresh_steps)
    of_parts = work.num_validations * work.part_passages * rates.passage / devices
    return (
        TimePart("encoding", f"{count:,} passages, at the start", whole),
        TimePart("refreshing", f"{num_refreshes} x {count:,}, while it trains", num_refreshes * whole),
        TimePart("refreshing", f"{count:,} passages, for the final test", work.final_encodings * whole),
        TimePart(
            "refreshing",
            f"{work.num_validations} x {work.part_passages:,}, for validations",
            of_parts,
        ),
        TimePart("refreshing", "a sample, for its staleness", work.probe_passages * rates.passage),
    )


def _of_training(setup: Setup, work: Work, rates: Rates) -> tuple[TimePart, ...]:
    devices, search = num_processes(setup.config), rates.search / setup.index_shards
    num_searches = work.num_steps * work.batches_a_step
    if setup.config.retrieval.are_fixed:
        num_searches = ceil(work.fixed_questions / RETRIEVED_TOGETHER)
    if setup.config.retrieval.candidates == "bm25":
        num_searches = 0
    return (
        TimePart("training", f"{num_searches:,} searches", num_searches * search),
        TimePart("training", f"{work.num_steps:,} steps", work.num_steps * rates.step),
        TimePart(
            "training",
            f"the teacher reads {work.taught_questions:,.0f} questions",
            work.taught_questions * rates.taught / devices,
        ),
    )


def _of_validations(setup: Setup, work: Work, rates: Rates) -> tuple[TimePart, ...]:
    search = rates.search_part if work.part_passages else rates.search / setup.index_shards
    return _of_evaluations(
        "validation",
        setup,
        rates,
        search,
        (work.num_validations, work.validation_questions, work.validation_read, work.validation_answered),
    )


def _of_tests(setup: Setup, work: Work, rates: Rates) -> tuple[TimePart, ...]:
    counts = (work.num_tests, work.test_questions, work.test_read, work.test_answered)
    return _of_evaluations("testing", setup, rates, rates.search / setup.index_shards, counts)


def _of_evaluations(
    group: str, setup: Setup, rates: Rates, search: float, counts: tuple[int, int, float, int]
) -> tuple[TimePart, ...]:
    num, questions, read, answered = counts
    devices = num_processes(setup.config)
    searches = ceil(questions / setup.config.data.evaluation_batch_size)
    times = f"{num} x {questions // num:,} questions" if num else ""
    return (
        TimePart(group, f"{times} searched for", (searches * search + questions * rates.found) / devices),
        TimePart(group, f"{read:,.0f} questions read", read * rates.read / devices),
        TimePart(group, f"{answered:,} questions answered", answered * rates.answered / devices),
    )
