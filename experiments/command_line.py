"""What the command lines share: exit codes, and a terminal left to what the user asked for."""

import logging
import os
import sys
import warnings
from collections.abc import Callable

USER_ERROR = 2
INTERRUPTED = 130


def run_command(work: Callable[[], int]) -> int:
    """Does the work of a command; returns its exit code, 2 for a mistake of the user's, 130 for Ctrl-C."""
    try:
        return work()
    except ValueError as error:
        # every mistake of the user's is a ValueError whose message names the thing and the way out
        if os.environ.get("ATTENTION_DISTILLATION_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def quieten() -> None:
    """Leaves the terminal to what the user asked for."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        r".*does not have many workers.*",  # questions are text in memory: workers would cost, not help
        r".*`LightningDataModule`.*weights_only.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r".*GPU available but not used.*",
        r".*module\(s\) in eval mode at the start of training.*",  # the frozen reader, on purpose
        r".*isinstance\(treespec, LeafSpec\).*",  # Lightning 2.6 on torch 2.13
        r".*'set_vital' is deprecated.*",  # torchdata 0.11 on torch 2.13
    ):
        warnings.filterwarnings("ignore", message=message)
