"""Draws the Hit Rates of a run when its training ends."""

from typing import TYPE_CHECKING

from lightning import Callback, LightningModule, Trainer

from callbacks.logged_media import log_figure
from callbacks.save_validations import SaveValidations
from lightning_modules.metrics.measures import bm25_measure, hit_rate_measure
from lightning_modules.retrieval import RetrievalModule

if TYPE_CHECKING:  # it takes long to import
    from matplotlib.figure import Figure

CURVE = "hit_rate"
"""What the image is called."""


class LogCurve(Callback):
    """Gives loggers that take images one of the Hit Rates over the steps, BM25's dashed.

    Args:
        validations: what was measured at each step, before a run was interrupted as well.
    """

    def __init__(self, validations: SaveValidations) -> None:
        self.validations = validations

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, RetrievalModule)
        if self.validations.metrics and trainer.loggers and trainer.is_global_zero:
            log_figure(trainer, CURVE, draw_hit_rates(self.validations.metrics, pl_module.hit_rate_ks))


def draw_hit_rates(validations: dict[int, dict[str, float]], ks: tuple[int, ...]) -> "Figure":
    """A line for each k over the steps that have been validated.

    Args:
        validations: metrics by step, see `SaveValidations`.
        ks: cut-offs.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 3.6), layout="constrained")
    axes = figure.subplots()
    for number, k in enumerate(ks):
        for measure, line in ((hit_rate_measure(k), "o-"), (bm25_measure(k), "--")):
            name = measure.in_validation
            points = [(step, found[name]) for step, found in sorted(validations.items()) if name in found]
            if points:
                axes.plot(*zip(*points, strict=True), line, color=f"C{number}", label=measure.label)
    axes.set(xlabel="training step", ylabel="share of validation questions", ylim=(0.0, 1.02))
    axes.locator_params(axis="x", integer=True)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure
