"""What the command lines share: exit codes, and a terminal left to what the user asked for."""

import argparse
import errno
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from datamodules.durable_files import WRITTEN_IN_PART

USER_ERROR = 2
INTERRUPTED = 130
CLOSED_PIPE = 141
"""As shells say it of a program whose output nobody reads any longer."""
FAILED = 1
"""The numbers of a training broke."""
REQUEUE = 75
"""A scheduler's signal ended a run, which is to be started again: EX_TEMPFAIL of sysexits.h."""
_WAIT_FOR_MAIN_PROCESS_S = 5.0
_MAKE_ROOM = "make room on the disk, or set runs to a folder on another one"
_ALLOW = "allow writing there, or set runs to a folder that can be written"
_WAYS_OUT = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EFBIG: "the file may not become so large: raise the limit (ulimit -f), or use another disk",
    errno.EROFS: _ALLOW,
    errno.EACCES: _ALLOW,
    errno.EIO: "the disk, or the terminal, has failed",
}
"""Errors of the system that a user can do something about."""


class HelpWithKeys(argparse.Action):
    """`--help`, with every key of the configuration after the options."""

    def __init__(self, option_strings: Sequence[str], dest: str, **settings: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **settings)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from experiments.show.settings import as_text  # late: choices are asked of what defines them

        print(f"{parser.format_help()}\n{as_text()}")
        parser.exit()


def run_command(work: Callable[[], int]) -> int:
    """Does the work of a command; returns its exit code.

    That of `work`; 2 for a mistake of the user's, or a disk that is full or cannot be written; 130 for
    Ctrl-C.
    """
    try:
        return work()
    except ValueError as error:
        # every mistake of the user's is a ValueError whose message names the thing and the way out
        if os.environ.get("ATTENTION_DISTILLATION_TRACEBACK"):
            raise
        if _rank() > 0:
            # the main process ends this one where it says the same
            time.sleep(_WAIT_FOR_MAIN_PROCESS_S)
        print(f"error: {_hidden_trouble(error) or error}", file=sys.stderr)
        return USER_ERROR
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains as it ends
        return CLOSED_PIPE
    except Exception as error:
        trouble = disk_trouble(error)
        if trouble is None or os.environ.get("ATTENTION_DISTILLATION_TRACEBACK"):
            raise
        print(f"error: {trouble}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _hidden_trouble(error: ValueError) -> str | None:
    """What is wrong with a disk, where a library says something else: Lightning, of a number to be logged.

    The suite's own mistakes of the user are of classes of their own, or have no error of the system behind
    them.
    """
    cause = error.__cause__
    return disk_trouble(cause) if type(error) is ValueError and isinstance(cause, OSError) else None


def disk_trouble(error: BaseException) -> str | None:
    """What is wrong with a disk, and the way out, where that is why something failed.

    Libraries pass on the system's error as their own, or as its words alone.
    """
    while True:
        if isinstance(error, OSError) and error.errno in _WAYS_OUT:
            where = f"{error.filename}: " if error.filename else ""
            return f"{where}{os.strerror(error.errno)}; {_WAYS_OUT[error.errno]}"
        for number, way_out in _WAYS_OUT.items():
            if number != errno.EACCES and os.strerror(number).lower() in str(error).lower():
                return f"{str(error).splitlines()[0][:300]}; {way_out}"
        if WRITTEN_IN_PART.search(str(error)):
            return f"a file could not be written whole, probably for want of space; {_MAKE_ROOM}"
        cause = error.__cause__ or error.__context__
        if cause is None:
            return None
        error = cause


def _rank() -> int:
    """Of this process among those of a run; 0 = the main one."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return int(next((rank for rank in ranks if rank is not None), 0))


def quieten() -> None:
    """Leaves the terminal to what the user asked for."""
    # the main process says what all of a run have to say
    level = logging.WARNING if _rank() == 0 else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        r".*does not have many workers.*",  # questions are text in memory: workers would cost, not help
        r".*`LightningDataModule`.*weights_only.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r".*GPU available but not used.*",
        r".*module\(s\) in eval mode at the start of training.*",  # the frozen reader, on purpose
        r"It is recommended to use `self.log\(.*sync_dist=True.*",  # they are of all processes already
        r".*isinstance\(treespec, LeafSpec\).*",  # Lightning 2.6 on torch 2.13
        r".*'set_vital' is deprecated.*",  # torchdata 0.11 on torch 2.13
    ):
        warnings.filterwarnings("ignore", message=message)
