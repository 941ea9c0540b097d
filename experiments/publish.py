"""Puts a run's retriever on the Hugging Face hub: `python -m experiments.publish RUN --repo OWNER/NAME`.

The model card is written anew from what the run's folder holds by now.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.command_line import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (0, 2 for a mistake of the user's, 130 for Ctrl-C)."""
    parser = argparse.ArgumentParser(prog="python -m experiments.publish", description=__doc__)
    parser.add_argument(
        "run", metavar="RUN", type=Path, help="folder of a finished run that trained the retriever"
    )
    parser.add_argument("--repo", metavar="OWNER/NAME", help="repository on the hub, made if it is not there")
    parser.add_argument("--private", action="store_true", help="make it a private one")
    parser.add_argument("--dry-run", action="store_true", help="show card and files; send nothing")
    options = parser.parse_args(arguments)
    return run_command(lambda: _publish(options))


def _publish(options: argparse.Namespace) -> int:
    from experiments.config import ConfigError
    from experiments.runs import RunFolder
    from experiments.show.model_card import write_model_card

    run = RunFolder(options.run)
    if not run.config.is_file():
        raise ConfigError(f"{options.run}: not a run folder (it holds no config.yaml)")
    if not run.is_finished or not run.retriever.is_dir():
        raise ConfigError(f"{options.run} has no trained retriever; name a finished run that trains it")
    if options.repo is None and not options.dry_run:
        raise ConfigError("name the repository with --repo OWNER/NAME, or look first with --dry-run")
    run.verify_results()
    run.verify_results("retriever")
    card = write_model_card(run, run.read_summary())
    if options.dry_run:
        print(card.read_text())
        for path in sorted(path for path in run.retriever.rglob("*") if path.is_file()):
            print(f"{path.stat().st_size / 1e6:10.2f} MB  {path.relative_to(run.retriever)}")
        print(f"nothing was sent; to {options.repo or 'OWNER/NAME'} without --dry-run")
        return 0
    print(f"published: {_push(run.retriever, options.repo, options.private)}")
    return 0


def _push(folder: Path, repository: str, is_private: bool) -> str:
    """Sends a folder to the hub; returns the repository's address."""
    from huggingface_hub import HfApi

    from datamodules.quiet_logs import only_errors_of
    from experiments.config import ConfigError

    api = HfApi()
    try:
        with only_errors_of("huggingface_hub"):
            address = api.create_repo(repository, private=is_private or None, exist_ok=True)
            api.upload_folder(
                repo_id=repository, folder_path=folder, commit_message="Retriever by attention distillation"
            )
    except Exception as error:  # the hub's, its HTTP client's and the disk's have no base in common
        raise ConfigError(
            f"--repo {repository}: the Hugging Face hub did not take it; log in with `hf auth login`, and "
            "see that the name is OWNER/NAME with an owner you may write to. "
            f"({' '.join(str(error).split())[:300]})"
        ) from error
    return str(address)


if __name__ == "__main__":
    sys.exit(main())
