"""A plan: what a run takes, whether a machine has it, and the settings that make it fit."""

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, assert_never

from datamodules.choices import Choice
from experiments.config import ConfigError, ExperimentConfig, trains
from experiments.planning.demands import Demand, Resource, demands_of
from experiments.planning.estimates import estimate_rates
from experiments.planning.machines import Machine, this_machine
from experiments.planning.setup import Setup, describe
from experiments.planning.times import Rates, TimePart, times_of
from experiments.planning.work import Work, count_work

_MOST_TOGETHER = 3
"""Settings that are changed at once to make a run fit."""
ELSEWHERE = {
    Resource.DISK: "free the disk, or set runs to a folder on a larger one",
    Resource.MEMORY: "take a machine with more memory",
    Resource.GPU: "take a GPU with more memory",
}
"""What helps whatever the settings."""


class Fit(Choice):
    """Whether a machine has what a run takes."""

    FITS = "fits"
    TIGHT = "tight"
    """What is sure fits, what is expected does not."""
    DOES_NOT_FIT = "does not fit"
    NOT_KNOWN = "not known"
    """Nobody said how much there is."""


@dataclass(frozen=True)
class Balance:
    """A demand, and what there is.

    Attributes:
        demand: of a resource.
        there: bytes; None = not known.
    """

    demand: Demand
    there: int | None

    @property
    def fit(self) -> Fit:
        if self.there is None:
            return Fit.NOT_KNOWN
        if self.demand.at_least > self.there:
            return Fit.DOES_NOT_FIT
        return Fit.FITS if self.demand.about <= self.there else Fit.TIGHT


@dataclass(frozen=True)
class Plan:
    """What a run takes on a machine.

    Attributes:
        setup: what it is made of.
        work: how much it does.
        rates: how long each takes.
        balances: of disk, host memory and, where there is one, each GPU.
        times: where the hours go.
    """

    setup: Setup
    work: Work
    rates: Rates
    balances: tuple[Balance, ...]
    times: tuple[TimePart, ...]

    @property
    def fits(self) -> bool:
        """Whether all that is known is enough for what is expected."""
        return all(balance.fit in (Fit.FITS, Fit.NOT_KNOWN) for balance in self.balances)

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return sum(part.seconds for part in self.times)


def make_plan(config: ExperimentConfig, machine: Machine, rates: Rates | None = None) -> Plan:
    """The plan of a run.

    Args:
        config: of the run.
        machine: to run on.
        rates: measured ones; None = they are estimated.

    Raises:
        ConfigError: it asks for a GPU, and there is none.
        DataError: a question file is missing or broken.
    """
    setup = describe(config, machine)
    work = count_work(setup)
    rates = rates or estimate_rates(setup)
    return Plan(setup, work, rates, balances_of(setup), times_of(setup, work, rates))


def balances_of(setup: Setup) -> tuple[Balance, ...]:
    """Each demand with what the machine has."""
    return tuple(Balance(demand, _there(demand.resource, setup.machine)) for demand in demands_of(setup))


def _there(resource: Resource, machine: Machine) -> int | None:
    match resource:
        case Resource.DISK:
            return machine.disk_bytes
        case Resource.MEMORY:
            return machine.memory_bytes
        case Resource.GPU:
            return machine.gpu_bytes
        case _:
            assert_never(resource)


# ---- settings that make it fit ----


@dataclass(frozen=True)
class Change:
    """Settings that make a run fit.

    Attributes:
        overrides: as the command line takes them.
        cost: what is lost by them.
        config: with them.
    """

    overrides: tuple[str, ...]
    cost: str
    config: ExperimentConfig


def changes_that_fit(
    config: ExperimentConfig, machine: Machine, expected: Collection[Resource] = tuple(Resource)
) -> list[Change]:
    """The fewest settings that, changed, make a run fit; several ways where there are.

    Args:
        config: of a run that does not fit.
        machine: that it should fit on.
        expected: resources that must be enough for what is expected; of the others for what is sure.
    """
    known = list(_possible_changes(describe(config, machine)))
    for together in range(1, _MOST_TOGETHER + 1):
        made = (_change(config, chosen) for chosen in combinations(known, together))
        fitting = [change for change in made if _fits(change.config, machine, expected)]
        if fitting:
            return fitting
    return []


def _change(config: ExperimentConfig, chosen: Sequence[tuple[dict[str, Any], str]]) -> Change:
    settings = {key: value for change, _ in chosen for key, value in change.items()}
    overrides = (
        f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in settings.items()
    )
    return Change(tuple(overrides), "; ".join(cost for _, cost in chosen), with_settings(config, settings))


def _fits(config: ExperimentConfig, machine: Machine, expected: Collection[Resource]) -> bool:
    return all(
        balance.fit in (Fit.FITS, Fit.NOT_KNOWN)
        or (balance.fit is Fit.TIGHT and balance.demand.resource not in expected)
        for balance in balances_of(describe(config, machine))
    )


def with_settings(config: ExperimentConfig, settings: Mapping[str, Any]) -> ExperimentConfig:
    """The configuration with other values of some keys, such as `index.gpu`."""
    changed = copy.deepcopy(config)
    for key, value in settings.items():
        section, _, name = key.rpartition(".")
        setattr(getattr(changed, section) if section else changed, name, value)
    return changed


def _possible_changes(setup: Setup) -> Iterator[tuple[dict[str, Any], str]]:
    """Settings that save something in this run, the least harmful first, each with what it costs."""
    config, index = setup.config, setup.config.index
    if setup.has_reader and not setup.trains_reader and setup.reader_bytes > 2 and setup.on_gpu:
        yield {"reader.dtype": "bfloat16"}, "a frozen reader in half precision"
    if setup.trains_reader and not config.reader.gradient_checkpointing:
        yield {"reader.gradient_checkpointing": True}, "the reader's pass is made twice"
    if config.data.batch_size > 1 and trains(config) and not config.objective.in_batch:
        batch = {
            "data.batch_size": 1,
            "trainer.accumulate": config.trainer.accumulate * config.data.batch_size,
        }
        yield batch, "the same questions a step, one at a time"
    if config.retriever.num_at_once is None and setup.trains_retriever:
        yield {"retriever.num_at_once": 1}, "passages encoded twice, forward and backward"
    if index.batch_size > 64:
        yield {"index.batch_size": 64}, "encoding is slower"
    if setup.searches_on_gpu:
        yield {"index.gpu": False}, "exact search on the CPU"
    if setup.is_exact and setup.num_passages and setup.num_passages > 1_000_000:
        factory = {"index.factory": "IVF16384,PQ64"}
        yield factory, "an approximate index, its recall logged"
    if setup.num_in_part > 100_000:
        yield {"index.validation_passages": 100_000}, "validations search a smaller part"
    if setup.trains_passage_encoder and index.refresh != "-1":
        yield {"index.refresh": "-1"}, "the index is not refreshed while the run trains"
    if config.retrieval.candidates == "index" and setup.has_bm25:
        yield {"retrieval.bm25_baseline": False}, "BM25 is not measured"
    if setup.num_passages and setup.num_passages > 1_000_000:
        yield {"data.max_passages": 1_000_000}, "a slice, which reports say"


# ---- the check of a run ----


def check_fits(config: ExperimentConfig, is_begun: bool = False) -> None:
    """Refuses a run that this machine surely cannot hold, before anything is loaded or written.

    Args:
        config: of the run.
        is_begun: whether it is gone on with, and so has most of its disk already.

    Raises:
        ConfigError: what is short, with figures and the settings that make it fit.
    """
    setup = describe(config, this_machine(config))
    for balance in balances_of(setup):
        is_had = is_begun and balance.demand.resource is Resource.DISK
        if balance.fit is Fit.DOES_NOT_FIT and not is_had:
            raise ConfigError(refusal(balance, setup))


def refusal(balance: Balance, setup: Setup) -> str:
    """Why a run cannot be, in a sentence, and what to change."""
    demand = balance.demand
    assert balance.there is not None, "what is not known is not short"
    largest = sorted(demand.parts, key=lambda part: -part.at_least)[:3]
    listed = ", ".join(f"{part.name} {_gb(part.at_least)}" for part in largest if part.at_least)
    where = {
        Resource.DISK: f"on the disk of {Path(setup.config.runs).absolute()}",
        Resource.MEMORY: "of memory",
        Resource.GPU: "of GPU memory",
    }[demand.resource]
    changes = changes_that_fit(setup.config, setup.machine, [demand.resource]) or changes_that_fit(
        setup.config, setup.machine, []
    )
    ways = " or ".join(" ".join(change.overrides) for change in changes[:3])
    mend = f"set {ways}, or {ELSEWHERE[demand.resource]}" if ways else ELSEWHERE[demand.resource]
    return (
        f"this run does not fit: it needs at least {_gb(demand.at_least)} {where} ({listed}), and there are "
        f"{_gb(balance.there)}; {mend}; python -m experiments.plan --exp {setup.config.name} shows all of it"
    )


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
