"""All commands under one name: `attdist run --exp NAME` is `python -m experiments.run --exp NAME`."""

import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "run": "runs an experiment",
    "sweep": "runs a grid of settings",
    "plan": "what a run takes, and whether it fits",
    "probe": "the pre-flight check: go, no-go or unsure",
    "report": "compares runs with each other and with the paper",
    "control-length": "how much of a gain passage length explains",
    "evaluate": "compares retrievers on test collections",
    "score": "writes a teacher's scores for others to train on",
    "publish": "puts a run's retriever on the Hugging Face hub",
    "select-heads": "chooses attention heads",
    "analyse": "token-level metrics",
    "download": "fetches and verifies data and models",
    "benchmarks": "compares the suite's speed with what it would be compared with",
    "study": "which measures of the check predict what a teacher does",
}
"""The modules and packages of this package that are commands, `-` for `_`, and what each does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the command's exit code, 2 for an unknown command."""
    name, *others = arguments if arguments is not None else sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        print("usage: attdist COMMAND ..., and attdist COMMAND --help\n")
        for command, what in COMMANDS.items():
            print(f"  {command:16} {what}")
        return 0
    if name not in COMMANDS:
        print(f"error: unknown command {name!r}; choose one of: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module = import_module(f"experiments.{name.replace('-', '_')}")
    if hasattr(module, "__path__"):
        module = import_module(f"{module.__name__}.__main__")
    code: int = module.main(others)
    return code


if __name__ == "__main__":
    sys.exit(main())
