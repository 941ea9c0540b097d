"""A teacher's scores for questions and candidates, kept as they come: what is interrupted goes on."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from callbacks.progress import progress_bar
from datamodules.batches import Batch, Passage, Question, in_batches
from datamodules.durable_files import write_durably
from datamodules.score_files import ScoredQuestion
from datamodules.sealed_files import json_line, read_json_lines
from datamodules.trec import read_run
from experiments.build import hardware
from experiments.config import ConfigError, ExperimentConfig
from experiments.preflight_run import starting_point
from experiments.runs import with_runs_named
from lightning_modules import RetrieverReaderModule

log = logging.getLogger(__name__)

_SECTIONS = ("data", "reader", "retriever", "retrieval", "objective", "init", "seed")
"""Of the configuration: what scores depend on."""
_RETRIEVED_TOGETHER = 64


@dataclass(frozen=True)
class ScoringWork:
    """Scores of questions, which lie in a file of their own until they are written where they belong.

    Attributes:
        scored: the questions that have candidates, in the order of the split.
        num_passages: K.
        num_without: questions without any candidate.
        teacher: in words.
        partial: the file.
    """

    scored: list[ScoredQuestion]
    num_passages: int
    num_without: int
    teacher: str
    partial: Path

    def forget(self) -> None:
        """Deletes the file, once the scores are where they belong."""
        self.partial.unlink()


def score_questions(config: ExperimentConfig, split: str, run: Path | None, out: Path) -> ScoringWork:
    """Scores the candidates of every question of a split, or of those that an earlier try has not come to.

    Args:
        config: of the experiment, whose starting models score.
        split: "train", "validation" or "test".
        run: TREC run that candidates come from; None = as the experiment finds them.
        out: where the scores will go; those of each batch are kept in `OUT.scoring`.

    Raises:
        ValueError: a setting, a file or a model that cannot be used; what is kept is of other settings.
    """
    config = with_runs_named(config)  # what is kept is of that run, and goes on with it alone
    ranked = None if run is None else read_run(run)
    kept = _KeptScores(out.with_name(f"{out.name}.scoring"), _about(config, split, run))
    with starting_point(config, reads_train=True) as (datamodule, module):
        questions: list[Question] = getattr(datamodule, split)
        to_come = [question for question in questions if question.id not in kept.scores]
        with progress_bar(len(questions), "Scoring", "questions", config.trainer.progress_bar) as bar:
            bar.update(len(questions) - len(to_come))
            for some in in_batches(to_come, _RETRIEVED_TOGETHER):
                found = _candidates(module, some, ranked)
                for batch in _batches(some, found, config.data.evaluation_batch_size):
                    kept.add(batch, module.log_p_target(batch).tolist())
                    bar.update(len(batch))
        passages = module.knowledge_base.find(id for ids, _ in kept.scores.values() for id in ids)
        scored = [
            ScoredQuestion(question, tuple(passages[id] for id in ids), tuple(scores))
            for question in questions
            if question.id in kept.scores
            for ids, scores in [kept.scores[question.id]]
        ]
        teacher = " ".join([module.objective.name, *module.objective.details])
    if not scored:
        raise ConfigError(f"{run}: it has candidates for none of the {len(questions)} questions of {split}")
    return ScoringWork(scored, config.training.num_passages, len(questions) - len(scored), teacher, kept.path)


def _about(config: ExperimentConfig, split: str, run: Path | None) -> dict[str, Any]:
    """What scores depend on: those of other settings, or in another precision, are not mixed with them.

    Args:
        config: with the runs that it starts from named.
        split: whose questions.
        run: whose candidates.
    """
    settings = asdict(config)
    return {
        **{name: settings[name] for name in _SECTIONS},
        "precision": hardware(config)["precision"],  # `auto` is another on another machine
        "num_passages": config.training.num_passages,
        "split": split,
        "candidates": None if run is None else hashlib.sha256(run.read_bytes()).hexdigest(),
    }


def _candidates(
    module: RetrieverReaderModule,
    questions: list[Question],
    ranked: Mapping[str, list[tuple[str, float]]] | None,
) -> list[list[Passage]]:
    """The first K of each question; fewer, or none, where a run has no more."""
    if ranked is None:
        return module.retrieve_candidates(questions)
    wanted = [
        [passage_id for passage_id, _ in ranked.get(question.id, [])[: module.num_passages]]
        for question in questions
    ]
    passages = module.knowledge_base.find(id for ids in wanted for id in ids)
    return [[passages[id] for id in ids] for ids in wanted]


def _batches(questions: Sequence[Question], found: Sequence[Sequence[Passage]], size: int) -> Iterator[Batch]:
    """Of neighbours that have as many candidates, since a batch has as many for each question."""
    pairs = [pair for pair in zip(questions, found, strict=True) if pair[1]]
    for _, alike in groupby(pairs, key=lambda pair: len(pair[1])):
        for some in in_batches(list(alike), size):
            asked, passages = zip(*some, strict=True)
            answers = [question.answers[0] if question.answers else "" for question in asked]
            yield Batch(asked, passages, answers)


class _KeptScores:
    """Scores by question, in a file that each batch is added to.

    Args:
        path: of the file; what it holds of the same settings is read, and what of it is damaged left out.
        about: what the scores depend on.

    Raises:
        ConfigError: the file is of other settings.
        DataError: it cannot be written.

    Attributes:
        scores: ids of the candidates, and the score of each, by question.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path = path
        self.scores: dict[str, tuple[list[str], list[float]]] = {}
        about = json.loads(json.dumps(about, default=str))
        try:
            first, *lines = read_json_lines(path) or [None]
        except FileNotFoundError:
            write_durably(path, json_line(about))
            return
        if first != about:
            holds = "is damaged" if first is None else "holds scores of other settings, which cannot be mixed"
            raise ConfigError(f"{path} {holds}; delete it, or give another --out")
        whole = [line for line in lines if line is not None]
        for line in whole:
            self.scores[line["id"]] = line["passages"], line["scores"]
        if len(whole) < len(lines):
            log.warning(
                "%s: %d lines are damaged, or were never whole; what they held is scored again",
                path,
                len(lines) - len(whole),
            )
            write_durably(path, "".join(map(json_line, [about, *whole])))

    def add(self, batch: Batch, scores: list[list[float]]) -> None:
        """Keeps the scores of a batch."""
        lines = []
        for question, passages, row in zip(batch.questions, batch.passages, scores, strict=True):
            ids = [passage.id for passage in passages]
            self.scores[question.id] = ids, row
            lines.append(json_line({"id": question.id, "passages": ids, "scores": row}))
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(lines)
