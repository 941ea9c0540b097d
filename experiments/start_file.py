"""What a run keeps of its start, so that it need not be measured again: `start.json`."""

import logging
from typing import Any

from callbacks.validate_on_part import read_rows
from datamodules.sealed_files import DamagedFileError, read_json, verify_files
from experiments.config import ConfigError, ExperimentConfig, trains
from experiments.processes import is_main_process
from experiments.runs import RunFolder
from lightning_modules.metrics.question_values import QuestionValues

_Kind = type | tuple[type, ...]
_NUMBER = (int, float)
_TABLES: dict[str, _Kind] = {"test": _NUMBER, "validation": _NUMBER, "predictions": str}
_TABLES_OF_TRAINING: dict[str, _Kind] = {"collapse": _NUMBER, "candidates": list}
"""The parts that name values, and of what kind these are."""

log = logging.getLogger(__name__)


def read_start(config: ExperimentConfig, run: RunFolder, num_passages: int | None) -> dict[str, Any] | None:
    """What a run that goes on has measured of its start; None = it is to be measured, maybe again.

    Args:
        config, run: of the run.
        num_passages: in the knowledge base, where validations search a part of it that the start chose.

    Raises:
        ConfigError: it is damaged, and held what cannot be measured again.
    """
    try:
        kept = read_json(run.start)
        _check_parts(kept, run, trains(config))
        verify_files(run.path, kept["predictions"])
        if num_passages is not None:
            read_rows(run.validation_passages, num_passages)
    except FileNotFoundError:
        return None  # which chooses the part anew
    except DamagedFileError as error:
        if config.stopping.baseline is not None:
            raise ConfigError(
                f"{error}; the baseline of stopping.baseline is kept with it, so it cannot be measured "
                "again: put a copy back, or start the run anew"
            ) from error
        log.warning("%s; the start is measured again", error)
        if is_main_process():
            for file in (run.start, run.validation_passages):
                file.unlink(missing_ok=True)
        return None
    return kept


def _check_parts(kept: dict[str, Any], run: RunFolder, is_trained: bool) -> None:
    """What was edited by hand, and has no checksum any more, may be of any form."""
    for part, kind in (_TABLES | _TABLES_OF_TRAINING if is_trained else _TABLES).items():
        table = kept.get(part)
        if not isinstance(table, dict) or not all(isinstance(value, kind) for value in table.values()):
            raise DamagedFileError(f"{run.start} is damaged: its {part} is not what a run keeps of its start")
    try:
        if is_trained:
            QuestionValues.from_json(kept["instances"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DamagedFileError(f"{run.start} is damaged: its instances are no values of questions") from error
