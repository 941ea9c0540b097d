"""Checkpoints on the disk: written beside their place, sealed, verified before they are read."""

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from datamodules.durable_files import cannot_write, durably
from datamodules.sealed_files import DamagedFileError, SealedFile, seal


class CheckpointFiles(CheckpointIO):
    """Lightning's way to its checkpoints, which are never half there and never trusted unseen.

    Lightning itself writes a checkpoint to `TMPDIR` and moves it, which needs room there too, copies where
    that is another disk, and leaves what a kill interrupts.

    Args:
        previous: by the path of a checkpoint where the one before it is kept.
    """

    def __init__(self, previous: Mapping[Path, Path] | None = None) -> None:
        self.previous = {Path(path).absolute(): kept for path, kept in (previous or {}).items()}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a checkpoint, whole or not at all; see `CheckpointIO`.

        Raises:
            DataError: it cannot be written; what was there before is there still.
        """
        assert storage_options is None, "there are none"
        save_sealed(checkpoint, Path(path), self.previous.get(Path(path).absolute()))

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """A checkpoint that `save_checkpoint` wrote.

        Raises:
            FileNotFoundError: there is none.
            DamagedFileError: it is not what was written.
        """
        return load_sealed(Path(path), map_location)

    def remove_checkpoint(self, path: Any) -> None:
        """Deletes one."""
        Path(path).unlink(missing_ok=True)


def save_sealed(content: Mapping[str, Any], path: Path, keep_old_as: Path | None = None) -> None:
    """Writes tensors as torch does, sealed, whole or not at all.

    Args:
        content: nothing but tensors, numbers, strings and containers of them.
        path: of the file; a missing folder is made.
        keep_old_as: as for `durably`.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with durably(path, keep_old_as) as partial:
            torch.save(content, partial)
            seal(partial)
    except (OSError, RuntimeError) as error:  # torch's own file raises the second
        raise cannot_write(path, error) from error


def load_sealed(path: Path, map_location: Any = None) -> dict[str, Any]:
    """What `save_sealed` was given.

    Args:
        path: of the file.
        map_location: as for `torch.load`.

    Raises:
        FileNotFoundError: there is none.
        DamagedFileError: it is not what was written, or holds what is not loaded safely.
    """
    SealedFile(path).verify()
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]{1,80})", str(error))
        what = f"it asks for {found[1]}" if found else "it was written by something else"
        raise DamagedFileError(
            f"{path} is refused, and nothing of it was run: a checkpoint holds weights and numbers alone, "
            f"and {what}; put back the file that the run wrote, or start a new run"
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DamagedFileError(f"{path} is no checkpoint of a run ({reason})") from error
