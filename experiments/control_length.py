"""Has a run learnt more than to prefer some passage length? `python -m experiments.control_length RUN`.

See `lightning_modules.length_control` for what is compared.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.command_line import quieten, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (0, 2 for a mistake of the user's, 130 for Ctrl-C)."""
    parser = argparse.ArgumentParser(prog="python -m experiments.control_length", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a finished run that trained the retriever")
    parser.add_argument("--k", type=int, help="of Hit Rate@K (the run's training.num_passages)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="where the result goes (default: RUN/analysis/length_control.json, or nowhere where settings "
        "change what is measured)",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings (see run --help)")
    options = parser.parse_intermixed_args(arguments)
    return run_command(lambda: _control(Path(options.run), options.k, options.overrides, options.out))


def _control(path: Path, k: int | None, overrides: Sequence[str], out: Path | None) -> int:
    quieten()
    import numpy as np
    from lightning import Trainer

    from datamodules.batches import Passage
    from datamodules.sealed_files import write_json
    from experiments.build import build_datamodule, build_knowledge, build_retriever, hardware
    from experiments.config import ConfigError
    from experiments.kept_indices import KeptIndices
    from experiments.runs import snapshot_of_run
    from experiments.show.console import print_control
    from lightning_modules.encoding import encode_passages
    from lightning_modules.length_control import MAX_PASSAGES, control_length
    from lightning_modules.retriever import Retriever

    if k is not None and k < 1:
        raise ConfigError(f"--k {k}: give 1 or more passages")
    start, end = (snapshot_of_run(path, overrides, at_start) for at_start in (True, False))
    if end.is_start or end.weights["retriever"] == start.weights["retriever"]:
        raise ConfigError(f"{path} has no trained retriever; name a finished run that trains it")
    assert end.run is not None, "it is a run's"
    place = end.place_of(out, end.run.length_control)
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
    num_passages = config.training.num_passages if k is None else k
    if num_passages > len(passages):
        raise ConfigError(f"--k {num_passages}: there are {len(passages)} passages; give no more")
    trainer = Trainer(logger=False, enable_checkpointing=False, **hardware(config))
    kept_indices = KeptIndices(config, end.run, trainer.precision_plugin)

    def embed(retriever: Retriever, passages: list[Passage]) -> np.ndarray:
        kept = kept_indices.embeddings(retriever, knowledge_base)
        return encode_passages(retriever, passages) if kept is None else kept

    with trainer.precision_plugin.forward_context():  # as the run made its indices
        before, after = (
            build_retriever(config, of.weights["retriever"]).to(trainer.strategy.root_device)
            for of in (start, end)
        )
        control = control_length(
            before,
            after,
            passages,
            datamodule.validation,
            datamodule.test,
            num_passages=num_passages,
            match=config.evaluation.answer_match,
            embed=embed,
        )
    print_control(control, num_passages)
    if place is None:
        print(end.why_not_kept)
        return 0
    kept = {name: asdict(getattr(control, name)) for name in ("gain", "by_length", "beyond_length")}
    changed = {"changed": list(end.changed)} if end.changed else {}
    write_json(place, {"k": num_passages, **kept, "corpus_words": control.corpus_words, **changed})
    return 0


if __name__ == "__main__":
    sys.exit(main())
