"""A .gguf file is decoded once: where transformers takes half a minute, safetensors take a second.

A decoded model lies in `$XDG_CACHE_HOME/attention_distillation/gguf` (`~/.cache/...`), under the SHA-256 of
the .gguf file, so that another file of the same name is another model. The folder may be deleted at any time,
and so may `digests` beside it, which saves reading files that have not changed.
"""

import logging
import os
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from datamodules.errors import DataError
from datamodules.sealed_files import DamagedFileError, verify_folder, whole_folder
from lightning_modules.remembered_digests import remembered_sha256

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where decoded models are."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "attention_distillation" / "gguf"


def decoded(path: Path, decode: Callable[[Path], None]) -> Path | None:
    """The folder that holds a .gguf file's model as transformers saves it.

    Args:
        path: of the .gguf file.
        decode: writes the model into a folder.

    Returns:
        The folder; None where it cannot be written, which is said.
    """
    digest = remembered_sha256(path, cache_folder().with_name("digests"))
    # what the weights and the tokenizer are made of may change with the libraries
    folder = cache_folder() / f"{digest[:32]}-transformers-{version('transformers')}-gguf-{version('gguf')}"
    try:
        verify_folder(folder)
        return folder
    except FileNotFoundError:
        pass
    except DamagedFileError as error:
        log.warning("%s; decoding it again", error)
    try:
        with whole_folder(folder) as partial:
            log.info("decoding %s into %s, which later runs read", path.name, folder)
            decode(partial)
    except DataError as error:
        log.warning("%s is not kept decoded, which every start takes time for: %s", path.name, error)
        return None
    for older in cache_folder().glob(f"{digest[:32]}-*"):
        if older != folder:
            shutil.rmtree(older, ignore_errors=True)
    return folder
