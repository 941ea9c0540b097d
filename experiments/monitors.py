"""Which readings decide while a run trains."""

from callbacks.log_indicators import RETRIEVAL_HIT
from callbacks.stop_on_indicators import READER_MONITORS
from experiments.config import ConfigError, ExperimentConfig


def monitors_of(config: ExperimentConfig) -> tuple[str, ...]:
    """`stopping.monitors`, or where it is null what can become worse in the run.

    A frozen reader cannot, and the Hit Rate of a fixed retriever cannot change.
    """
    if config.stopping.monitors is not None:
        return tuple(config.stopping.monitors)
    of_reader = READER_MONITORS if config.training.train_reader else ()
    return (*of_reader, RETRIEVAL_HIT) if config.training.train_retriever else of_reader


def check_monitors(config: ExperimentConfig) -> None:
    """Refuses no monitors at all, and those of a reader that is not trained.

    Raises:
        ConfigError: says why, and what to use.
    """
    monitors = monitors_of(config)
    if not monitors:
        raise ConfigError("stopping.monitors is empty: name readings, or set stopping.enabled=false")
    of_reader = [name for name in monitors if name.startswith(("indicator", "teacher/", "start_candidates/"))]
    if of_reader and not config.training.train_reader:
        raise ConfigError(
            f"stopping.monitors names {of_reader[0]}, but the reader is frozen (training.train_reader=false) "
            "and cannot become a worse teacher: that reading follows what the retriever finds, and falls as "
            "it gets better; use stopping.monitors=[retrieval/hit], or null for the default"
        )
