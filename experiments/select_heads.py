"""Attention heads by a published method: `python -m experiments.select_heads --exp NAME [key=value ...]`.

Reads training questions with the experiment's starting models, scores every head of the reader, says what the
best ones are worth on held-out questions, and writes a file that `reader.attention_heads` may name.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.command_line import quieten, run_command

if TYPE_CHECKING:
    from experiments.config import ExperimentConfig
    from lightning_modules.head_lists import HeadList, HeadRows


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (0, 2 for a mistake of the user's, 130 for Ctrl-C)."""
    options = _parser().parse_intermixed_args(arguments)
    return run_command(lambda: _select(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.select_heads",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--exp", metavar="NAME", required=True, help="whose reader and questions are taken")
    parser.add_argument("--method", default="qrhead", help="how heads are scored: qrhead (default) or core")
    parser.add_argument("--num-heads", type=int, default=16, help="heads that the file stands for (16)")
    parser.add_argument("--rows", default="question", help="whose attention: question (default) or answer")
    parser.add_argument(
        "--questions", type=int, default=100, help="with a positive and a negative passage, at most (100)"
    )
    parser.add_argument("--out", metavar="FILE", help="default: RUNS/heads/NAME/DATE-METHOD-ROWS.json")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings (see run --help)")
    return parser


def _select(options: argparse.Namespace) -> int:
    from experiments.checks import check_config
    from experiments.config import ConfigError, load_config

    config = load_config(options.exp, options.overrides)
    # every head is scored, so none is chosen yet
    config = dataclasses.replace(config, reader=dataclasses.replace(config.reader, attention_heads=None))
    check_config(config)
    from experiments.show.heads_console import print_heads
    from lightning_modules.head_lists import SUFFIX, HeadRows
    from lightning_modules.head_selection import FEWEST_QUESTIONS
    from lightning_modules.metrics.head_methods import HEAD_METHODS

    rows = HeadRows(options.rows)
    if options.method not in HEAD_METHODS:
        raise ConfigError(f"--method {options.method} is unknown; choose one of: {', '.join(HEAD_METHODS)}")
    if options.questions < FEWEST_QUESTIONS:
        raise ConfigError(f"--questions must be at least {FEWEST_QUESTIONS}, to choose among so many heads")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    usual = Path(config.runs) / "heads" / config.name / f"{stamp}-{options.method}-{rows}{SUFFIX}"
    out = Path(options.out or usual)
    if out.suffix != SUFFIX:
        raise ConfigError(f"--out {out} must end in {SUFFIX}, which reader.attention_heads knows files by")
    quieten()
    started = time.perf_counter()
    print(f"attention heads of {config.name} by {options.method}: {config.description}", flush=True)
    listed = list_heads(config, options.method, rows, options.num_heads, options.questions)
    listed.save(out)
    print_heads(listed)
    print(f"{time.perf_counter() - started:.0f} seconds; to use them: reader.attention_heads={out}")
    return 0


def list_heads(
    config: "ExperimentConfig", method: str, rows: "HeadRows", num_heads: int, num_questions: int
) -> "HeadList":
    """Reads training questions as an experiment would, and ranks its reader's heads; nothing is written.

    Args:
        config: of the experiment, without chosen heads.
        method: of `HEAD_METHODS`.
        rows: whose attention is scored.
        num_heads: how many the list stands for.
        num_questions: with a positive and a negative passage, at most.

    Raises:
        ValueError: a setting, a file or a model that cannot be used, or too few questions.
    """
    import lightning as L

    from callbacks.progress import progress_bar
    from experiments.config import ConfigError
    from experiments.preflight_run import starting_point
    from experiments.runs import starting_weights
    from lightning_modules.fingerprint import model_fingerprint
    from lightning_modules.head_lists import HeadList
    from lightning_modules.head_selection import find_candidates, score_heads, select_heads

    L.seed_everything(config.seed, verbose=False)
    with starting_point(config, reads_train=True) as (datamodule, module):
        num_layers, heads_of_layer = module.reader.num_layers_and_heads
        if not 1 <= num_heads <= num_layers * heads_of_layer:
            raise ConfigError(
                f"--num-heads {num_heads}: this reader has {num_layers} layers of {heads_of_layer} heads"
            )
        candidates = find_candidates(module, datamodule.train, num_questions)
        with progress_bar(len(candidates), "Reading", "questions", config.trainer.progress_bar) as bar:
            found = score_heads(
                module.reader, candidates, rows, config.data.evaluation_batch_size, bar.update
            )
        selection = select_heads(found, method, num_heads, config.seed)
        return HeadList(
            method=method,
            rows=rows,
            num_heads=num_heads,
            num_questions=selection.num_questions,
            reader=str(starting_weights(config)["reader"] or config.reader.name),
            fingerprint=model_fingerprint(module.reader.model),
            version=_version(),
            held_out=[judged.to_json() for judged in selection.held_out],
            heads=selection.heads,
        )


def _version() -> str | None:
    try:
        return metadata.version("attention-distillation")
    except metadata.PackageNotFoundError:  # run from the source tree
        return None


if __name__ == "__main__":
    sys.exit(main())
