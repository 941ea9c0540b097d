"""A plan on the console: what a run takes, what there is, and where the hours go."""

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table

from experiments.planning.demands import Resource
from experiments.planning.measured import Stage
from experiments.planning.plan import ELSEWHERE, Balance, Change, Fit, Plan, changes_that_fit, make_plan
from experiments.planning.setup import Setup
from experiments.planning.times import FROM_ARITHMETIC, TimePart
from experiments.show.console import console_table, new_console

_NAMES = {
    Resource.DISK: "disk",
    Resource.MEMORY: "memory of the host",
    Resource.GPU: "memory of each GPU",
}
_MOST_CHANGES = 4


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """Demands and hours, whether it fits, and the settings that make it fit.

    Args:
        plan: of a run.
        console: where to; None = standard output.
    """
    console = console or new_console()
    config = plan.setup.config
    console.print(f"{config.name}: {config.description}", markup=False)
    console.print(_described(plan.setup), markup=False)
    for sentence in plan.setup.unknown:
        # a command in it is to be copied whole
        console.print(f"unknown: {sentence}", markup=False, soft_wrap=True)
    console.print(_bytes(plan.balances))
    console.print(_hours(plan))
    for line in _verdict(plan):
        console.print(line, markup=False)


def print_comparison(plan: Plan, stages: Sequence[Stage], ended: str, console: Console | None = None) -> None:
    """Planned and measured hours, side by side.

    Args:
        plan: of the run.
        stages: see `compare`.
        ended: why the run did.
        console: where to; None = standard output.
    """
    console = console or new_console()
    config = plan.setup.config
    console.print(f"{config.name}: {config.description}", markup=False)
    console.print(_described(plan.setup), markup=False)
    rows = [
        [
            stage.name,
            _time(stage.planned),
            _time(stage.measured),
            "" if stage.ratio is None or not stage.planned else f"{stage.ratio:.2f}",
        ]
        for stage in stages
    ]
    columns = ["", "planned", "measured", "planned / measured"]
    table = console_table("hours", columns, rows, caption=plan.rates.source, bold=[len(rows) - 1])
    console.print(table)
    console.print(f"the run ended because: {ended}; the plan is of all its steps", markup=False)


def _described(setup: Setup) -> str:
    parts = [f"on {setup.machine.name}"]
    if setup.num_passages:
        parts.append(f"{setup.num_passages:,} passages of {setup.dim} dimensions")
    for name, size in (("reader", setup.reader), ("retriever", setup.retriever)):
        if size is not None and size.parameters:
            parts.append(f"{name} of {size.parameters / 1e6:,.0f} million parameters")
    return f"{', '.join(parts)}, {setup.precision}"


def _bytes(balances: Sequence[Balance]) -> Table:
    rows: list[Sequence[str]] = []
    for balance in balances:
        there = "not given" if balance.there is None else f"{balance.there / 1e9:,.1f}"
        total = balance.demand.about
        rows += [[f"  {part.name}", f"{part.about / 1e9:,.1f}"] for part in balance.demand.parts]
        rows += [[_NAMES[balance.demand.resource], f"{total / 1e9:,.1f}", there, str(balance.fit)], []]
    totals = [number for number, row in enumerate(rows) if len(row) == 4]
    padded = [[*row, *[""] * (4 - len(row))] if row else [] for row in rows[:-1]]
    return console_table("GB at the worst moment", ["", "needed", "there", ""], padded, bold=totals)


def _hours(plan: Plan) -> Table:
    rows: list[Sequence[str]] = []
    totals = []
    for group, parts in groupby(plan.times, key=lambda part: part.group):
        listed: list[TimePart] = list(parts)
        totals.append(len(rows))
        rows.append([group, _time(sum(part.seconds for part in listed))])
        rows += [[f"  {part.name}", _time(part.seconds)] for part in listed]
    rows += [[], ["all", _time(plan.seconds)]]
    return console_table("hours", ["", ""], rows, caption=plan.rates.source, bold=[*totals, len(rows) - 1])


def _time(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def _verdict(plan: Plan) -> list[str]:
    if plan.fits:
        unknown = [_NAMES[b.demand.resource] for b in plan.balances if b.fit is Fit.NOT_KNOWN]
        asked = f" (nothing was said of the {' and the '.join(unknown)})" if unknown else ""
        return [f"It fits{asked}."]
    short = [balance for balance in plan.balances if balance.fit in (Fit.TIGHT, Fit.DOES_NOT_FIT)]
    lines = [
        f"It {'may not' if balance.fit is Fit.TIGHT else 'does not'} fit: {_NAMES[balance.demand.resource]}, "
        f"{balance.demand.about / 1e9:,.1f} GB of {(balance.there or 0) / 1e9:,.1f} GB"
        for balance in short
    ]
    changes = changes_that_fit(plan.setup.config, plan.setup.machine)
    if not changes:
        ways = "; ".join(ELSEWHERE[balance.demand.resource] for balance in short)
        return [*lines, f"No change of settings known here makes it fit: {ways}."]
    told = [f"  {' '.join(change.overrides)}  ({_costs(plan, change)})" for change in changes[:_MOST_CHANGES]]
    return [*lines, "What makes it fit:" if len(told) == 1 else "Each of these makes it fit:", *told]


def _costs(plan: Plan, change: Change) -> str:
    if plan.rates.source != FROM_ARITHMETIC:  # those measured are of the settings as they are
        return change.cost
    return f"{change.cost}: {_time(make_plan(change.config, plan.setup.machine).seconds)} in all"
