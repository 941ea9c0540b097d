"""Are gradients good enough for the token scores of likelihoods? `evaluation.token_drops` chooses between a
forward pass for each token and one backward pass.

`python -m experiments.benchmarks.token_drops [--questions 4] [key=value ...]` reads validation questions with
the passages that the starting retriever finds, both ways, and compares.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from datamodules.batches import Batch, Passage, Question, SolvedExample
from experiments.build import (
    build_datamodule,
    build_knowledge,
    build_reader,
    build_retriever,
    take_examples,
)
from experiments.command_line import quieten, run_command
from experiments.config import ExperimentConfig, load_config
from lightning_modules.encoding import encode_passages
from lightning_modules.metrics.indicators import Indicator, masked_spearman
from lightning_modules.metrics.units import PassageUnits, passage_units
from lightning_modules.token_drops import TokenDrops

_COMPARED = (TokenDrops.MASKED, TokenDrops.GRADIENT)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.token_drops", description=__doc__)
    parser.add_argument("--exp", default="perplexity_vital")
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args(arguments)
    return run_command(lambda: _compare(options))


def _compare(options: argparse.Namespace) -> int:
    quieten()
    config = load_config(options.exp, options.overrides)
    questions, passages, examples = _retrieve(config, options.questions)
    reader = build_reader(config, examples=examples)
    agreements: list[float] = []
    indicators = {how: Indicator("indicator1") for how in _COMPARED}
    seconds = dict.fromkeys(_COMPARED, 0.0)
    for question, found in zip(questions, passages, strict=True):
        batch = Batch([question], [found], [question.answers[0]])
        units: dict[TokenDrops, PassageUnits] = {}
        for how in _COMPARED:
            started = time.perf_counter()
            output = reader.read_drops(batch, how)
            seconds[how] += time.perf_counter() - started
            units[how] = of = passage_units(output, reader)
            indicators[how].update(of.attention, of.answer_similarity, of.mask, of.question_of_unit, 1)
        agreements += _agreement(units[TokenDrops.GRADIENT], units[TokenDrops.MASKED])
    agreement = torch.tensor(agreements)
    low, middle, high = agreement.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
    print(
        f"Spearman of gradient and masked over a passage's tokens: median {middle:.2f}, from {low:.2f} to "
        f"{high:.2f} in 80% of {len(agreement)} passages"
    )
    for how, indicator in indicators.items():
        value = indicator.compute()["indicator1/spearman_p90"].item()
        print(
            f"{how.value}: Indicator 1 Spearman p90 {value:+.3f} over {len(questions)} questions, "
            f"{seconds[how] / len(questions):.1f} s a question"
        )
    return 0


def _retrieve(
    config: ExperimentConfig, num_questions: int
) -> tuple[list[Question], list[list[Passage]], list[SolvedExample]]:
    """Questions, the passages of each, and what the reader is shown first."""
    datamodule = build_datamodule(config)
    questions = datamodule.validation[:num_questions]
    retriever = build_retriever(config).eval()
    with TemporaryDirectory() as scratch, torch.no_grad():
        knowledge_base = build_knowledge(config, datamodule, Path(scratch))
        examples = take_examples(config, datamodule, knowledge_base)
        passages = knowledge_base[0 : len(knowledge_base)]
        encoded = torch.from_numpy(encode_passages(retriever, passages))
        queries = retriever.encode_queries([question.text for question in questions])
    top = (queries @ encoded.T).topk(config.training.num_passages).indices
    return questions, [[passages[row] for row in rows] for rows in top.tolist()], examples


def _agreement(gradient: PassageUnits, masked: PassageUnits) -> list[float]:
    """Of the passages in which both ways leave some token a drop."""
    found = masked_spearman(gradient.attention, masked.attention, masked.mask)
    return found[~found.isnan()].tolist()


if __name__ == "__main__":
    sys.exit(main())
