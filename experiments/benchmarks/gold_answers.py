"""Do solved examples shorten a reader's answers? `reader.num_examples` shows them before each prompt.

`python -m experiments.benchmarks.gold_answers [key=value ...] [--questions 60] [--num-examples 0 1 3]` asks
test questions with their gold passages alone (K = 1), and prints exact match (EM) and F1 with 95% bootstrap
intervals.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from datamodules.answer_matching import exact_match, f1_score
from datamodules.batches import Batch, Passage, Question, SolvedExample, in_batches
from datamodules.solved_examples import choose_examples
from experiments.build import build_datamodule, build_knowledge, build_reader
from experiments.command_line import quieten, run_command
from experiments.config import ConfigError, ExperimentConfig, load_config, naming
from lightning_modules.metrics.estimates import estimate
from lightning_modules.readers.base import Reader


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.gold_answers", description=__doc__
    )
    parser.add_argument("--exp", default="checkpoint_vital")
    parser.add_argument("--num-examples", type=int, nargs="+", default=[0, 1, 3], metavar="N")
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args(arguments)
    return run_command(lambda: _compare(options))


def _compare(options: argparse.Namespace) -> int:
    quieten()
    config = load_config(options.exp, options.overrides)
    asked, examples = _read(config, options.questions, max(options.num_examples))
    reader = build_reader(config).eval()
    for num_examples in options.num_examples:
        shown = reader.showing(examples=examples[:num_examples])
        started = time.perf_counter()
        answers = _answers(shown, asked, config)
        seconds = (time.perf_counter() - started) / len(asked)
        scored = [(answer, question.answers) for answer, (question, _) in zip(answers, asked, strict=True)]
        exact = estimate([exact_match(answer, accepted) for answer, accepted in scored])
        f1 = estimate([f1_score(answer, accepted) for answer, accepted in scored])
        num_tokens = len(shown.prompts.build(_batch(asked[:1])).prefix_ids)
        print(
            f"{num_examples} examples ({num_tokens} tokens): EM {exact.text}, F1 {f1.text} over {len(asked)} "
            f"questions, {seconds:.1f} s a question",
            flush=True,
        )
    return 0


_Asked = tuple[Question, Passage]


def _read(
    config: ExperimentConfig, num_questions: int, num_examples: int
) -> tuple[list[_Asked], list[SolvedExample]]:
    """The first test questions that have a gold passage, with it, and the examples."""
    datamodule = build_datamodule(config, reads_train=True)
    with TemporaryDirectory() as scratch:
        knowledge_base = build_knowledge(config, datamodule, Path(scratch))
        passages = knowledge_base.titled({question.title for question in datamodule.test})
        asked = [(q, passages[q.title][0]) for q in datamodule.test if q.title in passages]
        if not asked:
            raise ConfigError(
                f"data.test={config.data.test}: no question names a passage (title) of data.passages; give "
                "questions with titles"
            )
        others = [*datamodule.validation, *datamodule.test]
        with naming("reader"):
            examples = choose_examples(datamodule.train, knowledge_base, num_examples, others)
    return asked[:num_questions], examples


def _answers(reader: Reader, asked: Sequence[_Asked], config: ExperimentConfig) -> list[str]:
    answers = []
    for some in in_batches(asked, config.data.evaluation_batch_size):
        batch = _batch(some)
        log_p_retr = torch.zeros(len(batch), 1, device=reader.device)
        answers += reader.generate(batch, log_p_retr, config.reader.max_new_tokens)
    return answers


def _batch(asked: Sequence[_Asked]) -> Batch:
    return Batch([question for question, _ in asked], [[passage] for _, passage in asked])


if __name__ == "__main__":
    sys.exit(main())
