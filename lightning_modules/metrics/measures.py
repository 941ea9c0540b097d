"""The one table of what is measured: names, labels, charts, which way is better, and how it is computed.

Logging, dashboard, summary, pre-flight check, analysis, report, stopping rules and docs read it: a new row
shows up in all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.answer_matching import exact_match, f1_score
from datamodules.choices import Choice
from lightning_modules.evaluation import Evaluation, ScoredQuestions, first_hit_ranks, mean_words
from lightning_modules.metrics.indicators import instance_means
from lightning_modules.metrics.teacher_auc import teacher_auc, teacher_reciprocal_rank
from lightning_modules.metrics.teacher_checks import relative_entropy_of

VALIDATION = "validation/"
"""Before the names of measures that a module logs itself; in tests `test/` stands there."""


class Better(Choice):
    """Which way a measure should go."""

    HIGHER = "higher"
    LOWER = "lower"
    NEITHER = "neither"


class Prominence(Choice):
    """Where a measure is shown."""

    EVERYWHERE = "everywhere"
    DETAIL = "detail"
    """Logged, charted and saved with each question; in no summary."""
    COUNT = "count"
    """Logged as a sum over questions, and nowhere else."""


@dataclass(frozen=True)
class Measure:
    """A quantity that an evaluation measures.

    Attributes:
        name: what it is called in files and, after the stage where `has_stage`, in logs.
        label: what tables call it.
        meaning: a line for docs.
        better: which way is better.
        chart: where TensorBoard shows it, category and chart; None where it is not logged.
        prominence: where it is shown.
        has_stage: whether its name in logs begins with the stage; the others do so in tests alone.
        of_read: one value for each question that was read, NaN where undefined.
        of_retrieved: one value for each question that was retrieved for.
        of_answer: the value of a prediction, given the acceptable answers.
        needs_both: whether it is undefined where all retrieved passages hold an answer or none does, which
            says nothing of the teacher; an indicator is undefined where attention has become constant.
        follows_length: whether it changes with the length of the retrieved passages, so that its change alone
            says nothing of the teacher.
        decimals: that are worth showing.
    """

    name: str
    label: str
    meaning: str
    better: Better
    chart: tuple[str, str] | None
    prominence: Prominence = Prominence.EVERYWHERE
    has_stage: bool = False
    of_read: Callable[[ScoredQuestions], Float[Tensor, " read"]] | None = None
    of_retrieved: Callable[[Evaluation], Float[Tensor, " batch"]] | None = None
    of_answer: Callable[[str, Sequence[str]], float] | None = None
    needs_both: bool = False
    follows_length: bool = False
    decimals: int = 3

    @property
    def in_validation(self) -> str:
        """What a validation logs it as."""
        return f"{VALIDATION}{self.name}" if self.has_stage else self.name

    @property
    def has_questions(self) -> bool:
        """Whether it has a value for each question, whose mean is logged."""
        of_question = (self.of_read, self.of_retrieved, self.of_answer)
        return self.prominence is not Prominence.COUNT and any(of_question)


# ---- retrieval and answers ----

RETRIEVAL = "3 Retrieval and teacher"
READER = "4 Reader"


def hit_rate_measure(k: int) -> Measure:
    """Hit Rate@k."""
    return Measure(
        f"hr_at_{k}",
        f"Hit Rate@{k}",
        f"share of questions with an answer among the first {k} passages (DPR's token match)",
        Better.HIGHER,
        (RETRIEVAL, f"Hit Rate@{k}"),
        has_stage=True,
        of_retrieved=partial(_is_hit_at, k=k),
    )


BM25 = "bm25/"
"""Before the names of the Hit Rates of BM25."""


def bm25_measure(k: int) -> Measure:
    """Hit Rate@k of BM25 over the same passages: the baseline that a retriever has to beat."""
    return Measure(
        f"{BM25}hr_at_{k}",
        f"BM25's Hit Rate@{k}",
        f"the same of BM25's first {k} passages: what the retriever has to beat",
        Better.NEITHER,
        (RETRIEVAL, f"Hit Rate@{k}"),
        has_stage=True,
    )


def _is_hit_at(evaluation: Evaluation, k: int) -> Float[Tensor, " batch"]:
    ranks = first_hit_ranks(evaluation.is_hit)
    return ((ranks >= 0) & (ranks < k)).float()


def _words(evaluation: Evaluation) -> Float[Tensor, " batch"]:
    return torch.tensor([mean_words([found], evaluation.num_passages) for found in evaluation.passages])


def is_retrieved(evaluation: Evaluation) -> Float[Tensor, " batch"]:
    """1 where one of the K passages holds an answer, else 0."""
    return evaluation.is_hit[:, : evaluation.num_passages].any(dim=1).float()


PASSAGE_WORDS = Measure(
    "passage_words",
    "retrieved passage length in words",
    "mean length of the first K passages: does the retriever come to prefer long or short ones?",
    Better.NEITHER,
    (RETRIEVAL, "retrieved passage length in words"),
    has_stage=True,
    of_retrieved=_words,
    follows_length=True,
)
RETRIEVAL_HIT = Measure(
    "retrieval/hit",
    "answer retrieved",
    "1 where one of a question's K passages holds an answer, else 0; its mean is Hit Rate@K",
    Better.HIGHER,
    None,
    Prominence.DETAIL,
    of_retrieved=is_retrieved,
)
ANSWERS = (
    Measure(
        "em",
        "exact match",
        "share of generated answers that equal an acceptable one after SQuAD's normalisation",
        Better.HIGHER,
        (READER, "answers"),
        has_stage=True,
        of_answer=exact_match,
    ),
    Measure(
        "f1",
        "F1",
        "words shared by the generated and the best acceptable answer",
        Better.HIGHER,
        (READER, "answers"),
        has_stage=True,
        of_answer=f1_score,
    ),
)
LOSSES = (
    Measure(
        "kl",
        "KL(target || p_RETR)",
        "the retriever's loss; the target is p_ATTN for attention distillation",
        Better.NEITHER,
        (RETRIEVAL, "KL"),
        has_stage=True,
    ),
    Measure(
        "emdr2",
        "EMDR2 loss",
        "negative log marginal likelihood of the answer's tokens, the loss of EMDR2",
        Better.NEITHER,
        (RETRIEVAL, "EMDR2 loss"),
        has_stage=True,
    ),
    Measure(
        "nll",
        "answer's loss",
        "mean negative log-likelihood of an answer token where p_RETR weighs the reader's attention, the "
        "loss of end-to-end training",
        Better.NEITHER,
        (RETRIEVAL, "answer's loss under p_RETR"),
        has_stage=True,
    ),
)


# ---- the indicators ----

_TARGETS = {1: "answer", 2: "question's nouns"}
INDICATOR_CATEGORIES = {
    1: "1 Indicator 1: attention on tokens like the answer",
    2: "2 Indicator 2: attention on tokens like the question's nouns",
}
_PARTS = {
    "attention": (
        "attention",
        "mean attention (attention sums to 1 over a passage, so that it falls with the passage's length)",
        Better.NEITHER,
        ("mean attention, which depends on passage length",) * 2,
    ),
    "lift": (
        "lift",
        "mean attention relative to that of the whole passage: 1 = as if attention were even",
        Better.HIGHER,
        ("lift (1 = attention is even), higher is better", "lift (1 = attention is even), rising is good"),
    ),
    "spearman": (
        "Spearman",
        "rank correlation of attention with that likeness",
        Better.HIGHER,
        ("Spearman, higher is better", "Spearman, good above the line"),
    ),
}


def indicator_measures(percentiles: Sequence[int] = (90, 95)) -> list[Measure]:
    """All parts of both indicators over the tokens most like their target."""
    measures = []
    for number, target in _TARGETS.items():
        for percentile in percentiles:
            where = f"over the {100 - percentile}% of passage tokens most like the {target}"
            for part, (word, meaning, better, charts) in _PARTS.items():
                measures.append(
                    Measure(
                        f"indicator{number}/{part}_p{percentile}",
                        f"Indicator {number} {word} p{percentile}",
                        f"{where}: {meaning}",
                        better,
                        (INDICATOR_CATEGORIES[number], charts[number - 1]),
                        Prominence.EVERYWHERE if percentile == percentiles[0] else Prominence.DETAIL,
                        of_read=partial(_indicator, number=number, percentile=percentile, part=part),
                        follows_length=part == "attention",
                    )
                )
            measures.append(
                Measure(
                    f"indicator{number}/undefined_p{percentile}",
                    f"Indicator {number}, undefined p{percentile}",
                    "number of retrieved passages whose correlation is undefined, which are left out",
                    Better.NEITHER,
                    (INDICATOR_CATEGORIES[number], "passages left out"),
                    Prominence.COUNT,
                    of_read=partial(_num_undefined, number=number, percentile=percentile),
                )
            )
    return measures


def _indicator(scored: ScoredQuestions, number: int, percentile: int, part: str) -> Float[Tensor, " read"]:
    of_units = getattr(scored.indicator(number, percentile), part)
    means, _ = instance_means(of_units, scored.units.question_of_unit, len(scored))
    return means


def _num_undefined(scored: ScoredQuestions, number: int, percentile: int) -> Float[Tensor, " read"]:
    undefined = scored.indicator(number, percentile).spearman.isnan().float()
    counts = undefined.new_zeros(len(scored))
    return counts.index_add(0, scored.units.question_of_unit, undefined)


# ---- the teacher ----


def _auc(scored: ScoredQuestions) -> Float[Tensor, " read"]:
    return teacher_auc(scored.log_p_target, scored.has_answer)


def _has_both(scored: ScoredQuestions) -> Float[Tensor, " read"]:
    return (~_auc(scored).isnan()).float()


TEACHER = (
    Measure(
        "teacher/auc",
        "teacher AUC",
        "probability that a passage with an answer gets more p_ATTN than one without, on the current "
        "candidates",
        Better.HIGHER,
        (RETRIEVAL, "teacher AUC"),
        of_read=_auc,
        needs_both=True,
    ),
    Measure(
        "teacher/mrr",
        "teacher MRR",
        "1 / rank, by p_ATTN, of the best passage with an answer",
        Better.HIGHER,
        (RETRIEVAL, "teacher AUC"),
        Prominence.DETAIL,
        of_read=lambda scored: teacher_reciprocal_rank(scored.log_p_target, scored.has_answer),
        needs_both=True,
    ),
    Measure(
        "teacher/entropy",
        "teacher entropy",
        "entropy of p_ATTN relative to that of equal shares: 1 = no difference, 0 = all on one passage",
        Better.NEITHER,
        (RETRIEVAL, "teacher entropy"),
        of_read=lambda scored: relative_entropy_of(scored.log_p_target),
    ),
    Measure(
        "teacher/share_with_both",
        "questions with a positive and a negative passage",
        "share of questions whose passages are both with and without an answer: only these say anything",
        Better.NEITHER,
        (RETRIEVAL, "questions with a positive and a negative passage"),
        Prominence.DETAIL,
        of_read=_has_both,
    ),
    Measure(
        "teacher/num_questions",
        "questions with a positive and a negative passage",
        "their number",
        Better.NEITHER,
        (RETRIEVAL, "number of questions with a positive and a negative passage"),
        Prominence.COUNT,
        of_read=_has_both,
    ),
)


def measure_labels(percentiles: Sequence[int] = (90, 95)) -> dict[str, str]:
    """What tables call each measure."""
    return {measure.name: measure.label for measure in all_measures(percentiles)}


def all_measures(
    percentiles: Sequence[int] = (90, 95), hit_rate_ks: Sequence[int] = (1, 5, 20)
) -> tuple[Measure, ...]:
    """The whole table, in the order of summaries."""
    return (
        *(hit_rate_measure(k) for k in hit_rate_ks),
        *(bm25_measure(k) for k in hit_rate_ks),
        RETRIEVAL_HIT,
        PASSAGE_WORDS,
        *ANSWERS,
        *LOSSES,
        *indicator_measures(percentiles),
        *TEACHER,
    )
