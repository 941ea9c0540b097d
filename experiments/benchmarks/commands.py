"""Commands of the suite in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""Of this checkout."""


def run_python(arguments: Sequence[str], root: Path = ROOT) -> None:
    """Runs Python to its end with the packages of a checkout, in its folder.

    Raises:
        ValueError: it has failed.
    """
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, *arguments]
    ended = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise ValueError(f"{' '.join(arguments)[:80]} failed in {root}: {ended.stderr[-500:]}")
