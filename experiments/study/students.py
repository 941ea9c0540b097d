"""Retrievers that a teacher of the study has taught: trained on its scores alone, and measured."""

import copy
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from lightning import Callback, LightningModule, Trainer, seed_everything

from datamodules.score_files import ScoredQuestion
from experiments.study.material import Candidates, Material
from experiments.study.readings import Scores
from lightning_modules import RetrieverReaderModule
from lightning_modules.candidates import CandidateChoice
from lightning_modules.candidates import Candidates as ShownCandidates
from lightning_modules.length_control import PassageRanking
from lightning_modules.objectives import Given
from lightning_modules.optimization import LearningRate, LearningRateDecay
from lightning_modules.retriever import Retriever
from lightning_modules.scores import Scale

KS = (1, 5, 20)
K = 5
"""Of the Hit Rate that a gain is measured by."""
NUM_SHOWN = 4
"""Candidates of a question that a step is about, others in each step."""

Hits = Float[np.ndarray, " questions"]


@dataclass(frozen=True)
class Lesson:
    """How a retriever is taught.

    Attributes:
        scale, temperature: of the teacher's target.
        rate: peak learning rate.
        num_steps: of training.
        warmup_steps: in which the rate rises; None = as in all other lessons.
    """

    scale: Scale
    temperature: float
    rate: float
    num_steps: int
    warmup_steps: int | None = None


@dataclass
class Taught:
    """What became of a retriever.

    Attributes:
        hits: by K, whether an answer is among the first K passages, of each test question.
        hits_at_start: the same of the starting retriever.
        reciprocal_ranks, reciprocal_ranks_at_start: of the first answer of each test question, 0 beyond the
            first 20.
        best_bonus, best_bonus_at_start: hits at K = 5 with the bonus for length that served each retriever
            best on the validation questions.
        words, words_at_start: mean words of the first five passages.
        validations: hits at K = 5 of each validation question by step, step 0 first.
        train_s, evaluate_s: seconds.
    """

    hits: dict[int, Hits]
    hits_at_start: dict[int, Hits]
    reciprocal_ranks: Hits
    reciprocal_ranks_at_start: Hits
    best_bonus: Hits
    best_bonus_at_start: Hits
    words: float
    words_at_start: float
    validations: dict[int, Hits] = field(default_factory=dict)
    train_s: float = 0.0
    evaluate_s: float = 0.0


class _Validate(Callback):
    """Ranks the validation questions' passages every so many steps; who trains does it before and after."""

    def __init__(self, material: Material, every: int) -> None:
        self.material = material
        self.every = every
        self.hits: dict[int, Hits] = {}
        self.seconds = 0.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        step = trainer.global_step
        if step % self.every == 0 and step < trainer.max_steps:
            started = time.perf_counter()
            retriever = pl_module.retriever
            assert isinstance(retriever, Retriever), "it is trained here"
            self.hits[step] = hits_of(self.material.validation_ranking(retriever))
            self.seconds += time.perf_counter() - started


def teach(material: Material, candidates: Candidates, scores: Scores, lesson: Lesson, seed: int) -> Taught:
    """Trains the starting retriever on a teacher's scores, and measures it on the test questions.

    Args:
        material: of the study.
        candidates: of the questions that teach.
        scores: the teacher's, of the candidates.
        lesson: how.
        seed: of the order of the questions, and of which of them teach: nine of ten.
    """
    seed_everything(seed, verbose=False)
    scored = _scored(candidates, scores, seed)
    retriever = copy.deepcopy(material.retriever)
    retriever.query_encoder.requires_grad_(True)
    retriever.passage_encoder.requires_grad_(retriever.train_passage_encoder)
    validate = _Validate(material, material.config.trainer.validate_every_steps)
    started = time.perf_counter()
    _train(material, retriever, scored, lesson, seed, validate)
    trained = time.perf_counter()
    validation, test = material.rankings(retriever)
    validation_start, test_start = material.start_rankings
    return Taught(
        hits={k: hits_of(test, k) for k in KS},
        hits_at_start={k: hits_of(test_start, k) for k in KS},
        reciprocal_ranks=test.reciprocal_ranks(max(KS)),
        reciprocal_ranks_at_start=test_start.reciprocal_ranks(max(KS)),
        best_bonus=test.with_bonus(validation.best_size(K), K).hits,
        best_bonus_at_start=test_start.with_bonus(validation_start.best_size(K), K).hits,
        words=test.with_bonus(0.0, K).words,
        words_at_start=test_start.with_bonus(0.0, K).words,
        validations={
            0: hits_of(material.validation_part(validation_start)),
            **validate.hits,
            lesson.num_steps: hits_of(material.validation_part(validation)),
        },
        train_s=trained - started - validate.seconds,
        evaluate_s=time.perf_counter() - trained + validate.seconds,
    )


def hits_of(ranking: PassageRanking, k: int = K) -> Hits:
    """Whether an answer is among the first k passages, question by question."""
    return ranking.with_bonus(0.0, min(k, len(ranking.passages))).hits


def _scored(candidates: Candidates, scores: Scores, seed: int) -> list[ScoredQuestion]:
    """Nine of ten of the questions, which differ from seed to seed."""
    num_questions = len(candidates.questions)
    random = np.random.default_rng(seed)
    kept = np.sort(random.permutation(num_questions)[: max(1, round(0.9 * num_questions))])
    return [
        ScoredQuestion(
            candidates.questions[row], tuple(candidates.passages[row]), tuple(scores[row].tolist())
        )
        for row in kept
    ]


def _train(
    material: Material,
    retriever: Retriever,
    scored: list[ScoredQuestion],
    lesson: Lesson,
    seed: int,
    validate: Callback,
) -> None:
    config = material.config
    warmup_steps = (
        config.training.retriever_warmup_steps if lesson.warmup_steps is None else lesson.warmup_steps
    )
    module = RetrieverReaderModule(
        retriever,
        None,
        material.retrieval.knowledge_base,
        objective=Given(
            attention_temperature=lesson.temperature,
            scale=lesson.scale,
            scored={one.question.id: one for one in scored},
        ),
        retriever_rate=LearningRate(lesson.rate, warmup_steps, LearningRateDecay(config.training.decay)),
        retrieval_temperature=config.objective.retrieval_temperature,
        in_batch=config.objective.in_batch,
        num_passages=min(NUM_SHOWN, config.training.num_passages),
        candidates=ShownCandidates(choice=CandidateChoice.SAMPLED),
        weight_decay=config.training.weight_decay,
        seed=seed,
    )
    questions = [one.question for one in scored]
    material.train(module, questions, config.data.batch_size, lesson.num_steps, seed, validate)
    retriever.eval()
