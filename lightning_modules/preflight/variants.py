"""What a pre-flight check compares: objectives, in the contexts and orders in which a reader can be shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.choices import Choice
from datamodules.prompts import Context, PassageOrder
from lightning_modules.calibration import FEWEST_UNRELATED
from lightning_modules.objectives import OBJECTIVES, Objective, Signals, make_objective
from lightning_modules.objectives.base import Cost
from lightning_modules.preflight.head_sets import HeadSet
from lightning_modules.readers.base import Reader


class Order(Choice):
    """In which order a reader of several passages saw them."""

    RANK = "rank"
    SHUFFLED = "shuffled"
    AVERAGED = "averaged"
    """Scores averaged over several orders."""


@dataclass(frozen=True)
class Variant:
    """An objective in a context.

    Attributes:
        objective: what of the reader teaches.
        context: how the reader was shown the passages; None where it has but one way, or none was read.
        order: of the passages, where a prompt holds several.
        num_examples: solved examples before each prompt; None where the check compares none.
        heads: whose attention it is; None = as configured.
    """

    objective: Objective
    context: Context | None = None
    order: Order = Order.RANK
    num_examples: int | None = None
    heads: HeadSet | None = None

    @classmethod
    def of_pass(
        cls,
        objective: Objective,
        context: Context | None,
        order: Order = Order.RANK,
        num_examples: int | None = None,
        heads: HeadSet | None = None,
    ) -> "Variant":
        """What an objective is called when its scores were found in a pass.

        The order is said of those alone that are scored by the pass itself, or by one over the same prompts.
        """
        if not objective.uses_reader:
            return cls(objective)
        has_order = objective.cost in (Cost.NOTHING, Cost.BACKWARD)
        return cls(objective, context, order if has_order else Order.RANK, num_examples, heads)

    @property
    def way(self) -> str:
        """What variants share of which the best is shown.

        That is objective, context, order, and a lack of examples, such as `adist concatenated shuffled`; with
        other heads than the configured ones objective and heads alone, such as `adist core:8`.
        """
        if self.heads is not None:
            return f"{self.objective.name} {self.heads.name}"
        return " ".join([self.objective.name, *self._shown_as])

    @property
    def name(self) -> str:
        """What tells it from the others of a check, such as `adist concatenated shuffled core:8 sum`.

        Scale and temperature are no part of it: they leave the order of the passages as it is.
        """
        return " ".join([self.objective.name, *self._shown_as, *self.objective.details])

    @property
    def _shown_as(self) -> list[str]:
        order = [] if self.order is Order.RANK else [self.order.value]
        context = [] if self.context is None else [self.context.value]
        examples = ["without examples"] if self.num_examples == 0 else []
        heads = [] if self.heads is None else [self.heads.name]
        return [*context, *order, *examples, *heads]

    @property
    def overrides(self) -> list[str] | None:
        """Settings under which an experiment teaches like this; None: it cannot (an average over orders)."""
        if self.order is Order.AVERAGED or (self.heads is not None and self.heads.setting is None):
            return None
        settings = {"objective.name": self.objective.name}
        if self.context is not None:
            settings["reader.context"] = self.context.value
        if self.context is Context.CONCATENATED:
            settings["reader.passage_order"] = self.order.value
        if self.num_examples is not None:
            settings["reader.num_examples"] = str(self.num_examples)
        if self.heads is not None and self.heads.setting is not None:
            settings["reader.attention_heads"] = self.heads.setting
        return [f"{key}={value}" for key, value in {**settings, **self.objective.settings}.items()]


Scores = Mapping[Variant, Float[Tensor, "batch passages"]]
"""What each variant's target is a softmax of, before any temperature."""


@dataclass(frozen=True)
class ComparedObjectives:
    """The objectives that are compared.

    Attributes:
        usual: every registered one in its variants. Those that the configured one makes as well are its own.
        only_configured: further variants of the configured one, which are scored in its context alone.
    """

    usual: list[Objective]
    only_configured: list[Objective]

    @classmethod
    def beside(cls, configured: Objective) -> "ComparedObjectives":
        """All that are worth comparing with the configured one, with its constants."""
        registered = [
            make_objective(name, constants=configured.constants)
            for name, objective in OBJECTIVES.items()
            if not objective.knows_answers
        ]
        usual = {(o.name, o.details): o for made in registered for o in made.variants()}
        own = {(o.name, o.details): o for o in configured.variants()}
        return cls(
            [own.get(key, objective) for key, objective in usual.items()],
            [objective for key, objective in own.items() if key not in usual],
        )

    def of_pass(self, reader: Reader) -> list[Objective]:
        """Those that one pass of a reader over its prompts scores."""
        fitting = [o for o in self.usual if o.uses_reader and o.unfit(reader) is None]
        return [o for o in fitting if o.cost is Cost.NOTHING or reader.reads_alone]

    def calibrated(self, reader: Reader, unrelated: Sequence[tuple[str, str]]) -> list[Objective]:
        """Signals of a reader less what passages get whatever is asked, which takes passes of their own."""
        others = {o.details for o in (*self.usual, *self.only_configured) if isinstance(o, Signals)}
        if self._signals is None or self._signals.unfit(reader) is not None:
            return []
        return [o for o in self._signals.calibrated(unrelated) if o.details not in others]

    def why_not_calibrated(self, reader: Reader, unrelated: Sequence[tuple[str, str]]) -> str | None:
        """What `calibrated` leaves out, and why; None = nothing."""
        if self._signals is None:
            return None
        refusal = self._signals.unfit(reader)
        if refusal is not None:
            return f"no calibrated signals are compared: {refusal}"
        num_known = len({question for question, _ in unrelated})
        if num_known < FEWEST_UNRELATED:
            return (
                "no signals calibrated by unrelated questions are compared: that asks at least "
                f"{FEWEST_UNRELATED} training questions that have answers, and there are {num_known} (an "
                "experiment that trains nothing has none; check the one that would train)"
            )
        return None

    @property
    def _signals(self) -> Signals | None:
        return next((o for o in self.usual if isinstance(o, Signals)), None)

    @property
    def of_no_pass(self) -> list[Objective]:
        """Those that need no reader."""
        return [o for o in self.usual if not o.uses_reader]

    def costing(self, cost: Cost) -> list[Objective]:
        """Those that need so much where the prompts show several passages."""
        return [o for o in self.usual if o.uses_reader and o.cost is cost]


def averaged_over_orders(by_order: list[Scores]) -> Scores:
    """The mean of each variant's scores over several orders of the passages."""
    in_any_order = [{replace(v, order=Order.AVERAGED): s for v, s in scores.items()} for scores in by_order]
    return {
        variant: torch.stack([scores[variant] for scores in in_any_order]).mean(dim=0)
        for variant in in_any_order[0]
    }


def without_examples(scores: Scores) -> Scores:
    """The scores of a reader that was shown no examples, in a check of one that is."""
    return {replace(v, num_examples=0) if v.objective.uses_reader else v: s for v, s in scores.items()}


def order_of(reader: Reader) -> Order:
    """In which order its prompts show several passages."""
    if reader.context is Context.CONCATENATED:
        return Order(reader.prompts.passage_order.value)
    return Order.RANK


def shown_in(reader: Reader, context: Context | None, order: Order = Order.RANK) -> Reader:
    """The same model, shown the passages in another of its contexts, or in another order."""
    if context is None:  # there is no other
        return reader
    changes: dict[str, Any] = {"context": context, "passage_order": PassageOrder(order.value)}
    return reader.showing(**changes)
