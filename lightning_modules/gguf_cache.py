"""A .gguf file is decoded once: where transformers takes half a minute, safetensors take a second.

A decoded model lies in `$XDG_CACHE_HOME/attention_distillation/gguf` (`~/.cache/...`), under the SHA-256 of
the .gguf file, so that another file of the same name is another model. The folder may be deleted at any time,
and so may `digests` beside it, which saves reading files that have not changed.
"""

import logging
import os
import shutil
import uuid
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from datamodules.checksums import recorded_sha256, verify_file, write_record
from datamodules.errors import DataError
from lightning_modules.remembered_digests import remembered_sha256

log = logging.getLogger(__name__)

_WEIGHTS = "model.safetensors"


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
    digest = _sha256(path)
    # what the weights and the tokenizer are made of may change with the libraries
    folder = cache_folder() / f"{digest[:32]}-transformers-{version('transformers')}-gguf-{version('gguf')}"
    if _is_whole(folder):
        return folder
    partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.mkdir(parents=True)
        log.info("decoding %s into %s, which later runs read", path.name, folder)
        decode(partial)
        write_record(partial / _WEIGHTS, path.name)
        _put_in_place(partial, folder)
    except OSError as error:
        log.warning("%s is not kept decoded, which every start takes time for: %s", path.name, error)
        return None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for older in cache_folder().glob(f"{digest[:32]}-*"):
        if older != folder and not older.name.endswith(".partial"):
            shutil.rmtree(older, ignore_errors=True)
    return folder


def _sha256(path: Path) -> str:
    return remembered_sha256(path, cache_folder().with_name("digests"))


def _is_whole(folder: Path) -> bool:
    if not (folder / _WEIGHTS).is_file():
        return False
    try:
        if _sha256(folder / _WEIGHTS) != recorded_sha256(folder / _WEIGHTS):
            verify_file(folder / _WEIGHTS)  # says what differs
    except DataError as error:
        log.warning("%s; decoding it again", str(error).split(";")[0])
        shutil.rmtree(folder, ignore_errors=True)
        return False
    return True


def _put_in_place(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)
    except OSError:
        if not _is_whole(folder):  # else another process was first
            raise
