"""The models that a configuration names: which are the hub's, and their files on this machine."""

from pathlib import Path

from datamodules.hub_models import fetch_model, find_model, is_hub_name
from experiments.config import ExperimentConfig, has_reader, naming
from experiments.data_files import bytes_bar

EMBEDDED = "embedded"
"""The models that come as packages."""


def hub_models(config: ExperimentConfig) -> list[str]:
    """Those of `reader` and `retriever` that a run takes from the hub, and not from an earlier run."""
    used = {
        "reader": config.init.reader_from is None and has_reader(config),
        "retriever": config.init.retriever_from is None and not config.evaluation.closed_book,
    }
    return [what for what, is_used in used.items() if is_used and is_of_hub(model_name(config, what))]


def models_without_commit(config: ExperimentConfig) -> list[str]:
    """Those of `hub_models` whose name leaves open which commit is meant."""
    return [what for what in hub_models(config) if "@" not in model_name(config, what)]


def models_used(config: ExperimentConfig) -> dict[str, str]:
    """`owner/name@commit` of those of `hub_models` that are on this machine, by what they are for."""
    used = {}
    for what in hub_models(config):
        name = model_name(config, what)
        folder = find_model(name)
        if folder is not None:
            used[what] = f"{name.partition('@')[0]}@{folder.name}"  # the hub's cache names it by the commit
    return used


def provide_model(config: ExperimentConfig, what: str) -> Path:
    """Sees to it that a model of the hub is on this machine, with a bar while it is downloaded.

    Args:
        config: that names it.
        what: "reader" or "retriever".

    Returns:
        Its folder.

    Raises:
        DataError: the hub does not give it, or the disk has no room for it.
    """
    is_shown = config.trainer.progress_bar
    with naming(what):
        return fetch_model(
            model_name(config, what), what, lambda of: bytes_bar(f"Downloading {of}", is_shown)
        )


def model_name(config: ExperimentConfig, what: str) -> str:
    """`reader.name` or `retriever.name`."""
    name: str = getattr(config, what).name
    return name


def is_of_hub(name: str) -> bool:
    """Whether a model is neither the embedded one nor a folder or file."""
    return name != EMBEDDED and not name.endswith(".gguf") and is_hub_name(name)
