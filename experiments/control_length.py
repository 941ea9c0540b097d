"""Has a run learnt more than to prefer some passage length? `python -m experiments.control_length RUN`.

See `lightning_modules.length_control` for what is compared.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.command_line import quieten, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (0, 2 for a mistake of the user's, 130 for Ctrl-C)."""
    parser = argparse.ArgumentParser(prog="python -m experiments.control_length", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a finished run that trained the retriever")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings to change")
    options = parser.parse_args(arguments)
    return run_command(lambda: _control(Path(options.run), options.overrides))


def _control(path: Path, overrides: Sequence[str]) -> int:
    quieten()
    from experiments.build import build_datamodule, build_knowledge, build_retriever
    from experiments.config import ConfigError
    from experiments.runs import snapshot_of_run
    from experiments.show.console import print_control
    from lightning_modules.length_control import MAX_PASSAGES, control_length

    start, end = (snapshot_of_run(path, overrides, at_start) for at_start in (True, False))
    if end.is_start or end.weights["retriever"] == start.weights["retriever"]:
        raise ConfigError(f"{path} has no trained retriever; name a finished run that trains it")
    config = end.config
    datamodule = build_datamodule(config)
    with TemporaryDirectory() as scratch:
        knowledge_base = build_knowledge(config, datamodule, Path(scratch))
        if len(knowledge_base) > MAX_PASSAGES:
            raise ConfigError(
                f"{len(knowledge_base):,} passages cannot all be scored at once; the control is for at most "
                f"{MAX_PASSAGES:,}: cut a slice with data.max_passages"
            )
        passages = knowledge_base[0 : len(knowledge_base)]
    control = control_length(
        build_retriever(config, start.weights["retriever"]),
        build_retriever(config, end.weights["retriever"]),
        passages,
        datamodule.validation,
        datamodule.test,
        num_passages=config.training.num_passages,
        match=config.evaluation.answer_match,
    )
    print_control(control, config.training.num_passages)
    return 0


if __name__ == "__main__":
    sys.exit(main())
