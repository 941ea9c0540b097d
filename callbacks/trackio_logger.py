"""Lightning's logger for trackio, which keeps runs on this machine unless it is told a Space."""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


class TrackioLogger(Logger):
    """A run of a trackio project: its metrics, configuration, text, histograms and images.

    The run is begun when something is logged, and ended by trackio when the process ends, since a trainer may
    be asked to fit, validate and test one after the other. A run of the same name is gone on with.

    Args:
        project: of trackio.
        name: of the run.
        group: of runs that belong together.

    Raises:
        ModuleNotFoundError: the package trackio is not installed.
    """

    def __init__(self, project: str, name: str, group: str | None = None) -> None:
        super().__init__()
        import trackio  # an extra

        self._trackio = trackio
        self._project, self._name, self._group = project, name, group
        self._config: dict[str, Any] = {}
        self._run: Any = None

    @property
    def name(self) -> str:
        """Of the project."""
        return self._project

    @property
    def version(self) -> str:
        """Of the run."""
        return self._name

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """trackio's own run."""
        if self._run is None:
            self._run = self._trackio.init(
                project=self._project,
                name=self._name,
                group=self._group,
                config=self._config,
                resume="allow",
                embed=False,
            )
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Kept for the run's beginning, which is when trackio takes them."""
        self._config |= vars(params) if isinstance(params, Namespace) else params

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Numbers of a step."""
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def log_text(self, name: str, markdown: str, step: int) -> None:
        """Markdown."""
        self.experiment.log({name: self._trackio.Markdown(markdown)}, step=step)

    @rank_zero_only
    def log_histogram(self, name: str, values: Any, step: int) -> None:
        """Of an array of numbers."""
        self.experiment.log({name: self._trackio.Histogram(values)}, step=step)

    @rank_zero_only
    def log_image(self, name: str, pixels: Any, step: int) -> None:
        """Of an array of bytes, height x width x 3."""
        self.experiment.log({name: self._trackio.Image(pixels)}, step=step)
