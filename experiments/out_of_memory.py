"""What to change where the memory of a GPU was not enough."""

from experiments.checks import why_not_in_parts
from experiments.config import ExperimentConfig, trains
from experiments.runs import RunFolder


def way_out(config: ExperimentConfig, run: RunFolder, error: str) -> str:
    """A message: what did not fit, and the settings that make it fit, the cheapest first.

    Args:
        config: of the run.
        run: its folder.
        error: what torch says.
    """
    ways = [f"{setting} ({what})" for setting, what in _settings(config)]
    listed = ", ".join(ways) or "a smaller reader, or a larger GPU"
    said = f"the GPU is out of memory ({error.split('. GPU')[0].splitlines()[0][:200]}); set {listed}"
    if run.start.is_file() and _can_go_on(config):
        said += (
            "; this run can go on with: python -m experiments.run --resume "
            f"{run.path} trainer.auto_batch=true"
        )
    return f"{said}; python -m experiments.plan shows what takes how much"


def _settings(config: ExperimentConfig) -> list[tuple[str, str]]:
    training = trains(config)
    found = []
    if _can_go_on(config):
        found.append(("trainer.auto_batch=true", "batches in parts, to the same result"))
    if training and config.training.train_retriever and config.retriever.num_at_once is None:
        found.append(
            ("retriever.num_at_once=16", "fewer activations, each pass made twice, to the same result")
        )
    if training and config.training.train_reader and not config.reader.gradient_checkpointing:
        found.append(("reader.gradient_checkpointing=true", "fewer activations, for a third more time"))
    if not config.training.train_reader and config.reader.dtype == "float32":
        found.append(("reader.dtype=bfloat16", "half of the frozen reader's weights"))
    if training and config.data.batch_size > 1:
        accumulate = config.data.batch_size * config.trainer.accumulate
        found.append((f"data.batch_size=1 trainer.accumulate={accumulate}", "one question at a time"))
    if config.data.evaluation_batch_size > 1:
        found.append(("data.evaluation_batch_size=1", "in validations and tests"))
    if config.index.batch_size > 16:
        found.append(("index.batch_size=16", "where passages are encoded"))
    return found


def _can_go_on(config: ExperimentConfig) -> bool:
    """Whether batches can be computed in parts, and are not yet."""
    return trains(config) and why_not_in_parts(config) is None and not config.trainer.auto_batch
