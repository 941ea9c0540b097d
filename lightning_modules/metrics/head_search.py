"""Which attention heads put passages with an answer first, and whether choosing them pays."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from datamodules.batches import TokenScope
from lightning_modules.attention_heads import AttentionHeads
from lightning_modules.metrics.bootstrap import bootstrap_interval
from lightning_modules.metrics.matched_auc import MatchedAUC, matched_auc
from lightning_modules.metrics.teacher_auc import teacher_auc
from lightning_modules.readers.outputs import HeadOutput, PassageSignals, QuestionHeadOutput
from lightning_modules.scores import PassageTokens

HEAD_COUNTS = (1, 2, 4, 8, 16, 32)


def head_passage_scores(
    head_scores: Float[Tensor, "prompts layers heads tokens"], tokens: PassageTokens
) -> Float[Tensor, "questions layers heads passages"]:
    """The sum of each passage's token scores (Eq. 1), by every head by itself.

    Their mean over some heads is the passage score of a reader with these `attention_heads`.

    Args:
        head_scores: s_t by layer and head (`HeadOutput.head_scores`).
        tokens: which tokens are whose.
    """
    _, layers, heads, _ = head_scores.shape
    by_head = tokens.repeated(layers * heads).sum(head_scores.flatten(0, 2))
    return by_head.view(tokens.num_questions, layers, heads, tokens.num_passages)


@dataclass(frozen=True)
class HeadSums:
    """Passage scores (Eq. 1) of every head by itself.

    Attributes:
        answer: from the answer's rows.
        question: from the question's; None where a reader has none.
    """

    answer: Float[Tensor, "questions layers heads passages"]
    question: Float[Tensor, "questions layers heads passages"] | None

    @classmethod
    def of(cls, output: HeadOutput) -> "HeadSums":
        """Those of a pass."""
        tokens = PassageTokens.of(output.prompts, TokenScope.PASSAGE)
        question = None
        if isinstance(output, QuestionHeadOutput):
            question = head_passage_scores(output.question_head_scores, tokens)
        return cls(head_passage_scores(output.head_scores, tokens), question)

    @classmethod
    def joined(cls, parts: Sequence["HeadSums"]) -> "HeadSums":
        """Those of several batches of one reader, one after the other."""
        questions = [part.question for part in parts if part.question is not None]
        return cls(torch.cat([part.answer for part in parts]), torch.cat(questions) if questions else None)

    def cpu(self) -> "HeadSums":
        """On the CPU, in single precision."""
        question = None if self.question is None else self.question.float().cpu()
        return HeadSums(self.answer.float().cpu(), question)

    def of_questions(self, rows: Int[Tensor, " rows"]) -> "HeadSums":
        """Those of some questions."""
        return HeadSums(self.answer[rows], None if self.question is None else self.question[rows])

    def of_heads(
        self,
        heads: Bool[Tensor, "layers heads"],
        likelihood: Float[Tensor, "questions passages"] | None = None,
    ) -> PassageSignals:
        """The mean over some heads: what a reader with these `attention_heads` makes of the passages.

        Args:
            heads: True = the head counts; at least one.
            likelihood: of the answer, which has no heads.
        """
        heads = heads.to(self.answer.device)
        question = None if self.question is None else self.question[:, heads].mean(dim=1)
        return PassageSignals(self.answer[:, heads].mean(dim=1), question, likelihood)


def head_auc(
    scores: Float[Tensor, "questions layers heads passages"],
    has_answer: Bool[Tensor, "questions passages"],
) -> Float[Tensor, "layers heads"]:
    """Teacher validity of every head alone: the mean of `teacher_auc` over questions that have it.

    NaN where no question has a positive and a negative passage.
    """
    return _auc_by_head(scores.flatten(1, 2), has_answer).nanmean(dim=0).view(scores.shape[1:3])


def layer_auc(
    scores: Float[Tensor, "questions layers heads passages"],
    has_answer: Bool[Tensor, "questions passages"],
) -> Float[Tensor, " layers"]:
    """Teacher validity of every layer, `layer.*`: of the mean over its heads, not the mean of their AUCs."""
    return head_auc(scores.mean(dim=2, keepdim=True), has_answer)[:, 0]


@dataclass(frozen=True)
class HeadSearch:
    """What choosing heads is worth, measured on questions that had no part in the choice.

    Attributes:
        heads: the choice made on all questions: what to set `reader.attention_heads` to, if `pays`. Its own
            AUC on these questions would flatter it.
        auc: mean held-out AUC of choices made, with their number of heads, on the other folds.
        auc_of_all: mean AUC of the mean over all heads, on the same questions.
        difference: auc - auc_of_all.
        interval: bootstrap 95% interval of the difference, over questions paired.
        at_equal_length, at_equal_length_of_all: held-out AUC of the choice and of all heads between passages
            of the same length (`matched_auc`): heads may be chosen because they look at length.
        num_questions: how many questions have a positive and a negative passage; the others have no AUC.
    """

    heads: AttentionHeads
    auc: float
    auc_of_all: float
    difference: float
    interval: tuple[float, float]
    at_equal_length: MatchedAUC
    at_equal_length_of_all: MatchedAUC
    num_questions: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval of the difference excludes 0, on either side."""
        return self.interval[0] > 0 or self.interval[1] < 0

    @property
    def pays(self) -> bool:
        """Whether the choice is better than all heads beyond chance, and no worse at equal length.

        A gain that is lost at equal length comes from heads that follow the passages' length.
        """
        return self.interval[0] > 0 and not self.at_equal_length.mean < self.at_equal_length_of_all.mean


def search_heads(
    scores: Float[Tensor, "questions layers heads passages"],
    has_answer: Bool[Tensor, "questions passages"],
    lengths: Float[Tensor, "questions passages"],
    num_folds: int = 5,
    seed: int = 0,
) -> HeadSearch:
    """Chooses heads by their AUC, and says by nested cross-validation over questions what that gains.

    In each fold the heads are ranked by their AUC on the other folds, and the best m of them are kept, m from
    `HEAD_COUNTS` by a cross-validation within those folds. What is scored is the plain mean over the chosen
    heads, as `reader.attention_heads` takes it: heads with long value vectors weigh more. Scaling each head's
    scores to one size might separate passages better, but would not be what the reader then computes.

    The interval resamples questions only, while the choices of different folds share most of their questions,
    so it is a little too narrow: on pure noise (200 questions, 30 x 9 heads) the mean difference was -0.002
    +- 0.003, and the interval excluded 0 in 20 of 200 trials, from above in 6
    (`python -m experiments.benchmarks.head_search_noise`).

    Args:
        scores: passage scores by head (`head_passage_scores`).
        has_answer: True = the passage holds an answer.
        lengths: of the passages, in tokens.
        num_folds: folds, outside and within.
        seed: of the folds and the bootstrap.

    Raises:
        ValueError: fewer than 2 * num_folds questions have a positive and a negative passage.
    """
    _, num_layers, num_heads, _ = scores.shape
    flat = scores.flatten(1, 2)
    auc = _auc_by_head(flat, has_answer)
    usable = ~auc.isnan().any(dim=1)
    num_questions = int(usable.sum())
    if num_questions < 2 * num_folds:
        raise ValueError(
            f"only {num_questions} questions have passages with and without an answer, and choosing "
            f"attention heads needs at least {2 * num_folds}; take more questions, or more passages for each"
        )
    # sums of float32 would break ties by the order of summation
    search = _Search(flat[usable].double(), has_answer[usable], auc[usable].double(), num_folds)
    generator = torch.Generator().manual_seed(seed)
    found_scores, all_scores = search.scores_held_out(generator), search.scores.mean(dim=1)
    found, of_all = (teacher_auc(s, search.has_answer).double() for s in (found_scores, all_scores))
    everything = torch.arange(num_questions, device=scores.device)
    chosen = torch.zeros(num_layers * num_heads, dtype=torch.bool)
    chosen[search.choose(everything, generator).cpu()] = True
    return HeadSearch(
        heads=AttentionHeads.from_mask(chosen.view(num_layers, num_heads)),
        auc=float(found.mean()),
        auc_of_all=float(of_all.mean()),
        difference=float((found - of_all).mean()),
        interval=bootstrap_interval((found - of_all).cpu(), seed=seed),
        at_equal_length=matched_auc(found_scores, search.has_answer, lengths[usable]),
        at_equal_length_of_all=matched_auc(all_scores, search.has_answer, lengths[usable]),
        num_questions=num_questions,
    )


@dataclass(frozen=True)
class _Search:
    """The questions that have an AUC; heads are numbered through all layers."""

    scores: Float[Tensor, "questions all_heads passages"]
    has_answer: Bool[Tensor, "questions passages"]
    auc: Float[Tensor, "questions all_heads"]
    num_folds: int

    def scores_held_out(self, generator: torch.Generator) -> Float[Tensor, "questions passages"]:
        """Passage scores of each question by the heads chosen without its fold."""
        held_out_scores = torch.zeros_like(self.scores[:, 0])
        everything = torch.arange(len(self.scores), device=self.scores.device)
        for training, held_out in question_folds(everything, self.num_folds, generator):
            chosen = self.choose(training, generator)
            held_out_scores[held_out] = self.scores[held_out][:, chosen].mean(dim=1)
        return held_out_scores

    def choose(
        self, questions: Int[Tensor, " training"], generator: torch.Generator
    ) -> Int[Tensor, " chosen"]:
        """The best heads on some questions, as many as a cross-validation within them asks for."""
        counts = [count for count in HEAD_COUNTS if count <= self.auc.shape[1]]
        total = self.auc.new_zeros(len(counts))
        for training, held_out in question_folds(questions, self.num_folds, generator):
            best = self._ranked(training)[: counts[-1]]
            sums = self.scores[held_out][:, best].cumsum(dim=1)[:, [count - 1 for count in counts]]
            total += _auc_by_head(sums, self.has_answer[held_out]).sum(dim=0)
        # the most heads among equals: a mean over more of them depends less on any
        num_chosen = max(count for count, auc in zip(counts, total, strict=True) if auc == total.max())
        return self._ranked(questions)[:num_chosen]

    def _ranked(self, questions: Int[Tensor, " training"]) -> Int[Tensor, " all_heads"]:
        """All heads, the highest mean AUC first; equals in the order of the layers."""
        return self.auc[questions].mean(dim=0).argsort(descending=True, stable=True)


def question_folds(
    questions: Int[Tensor, " some"], num_folds: int, generator: torch.Generator
) -> list[tuple[Int[Tensor, " training"], Int[Tensor, " held_out"]]]:
    """(the others, held out) of each fold, of sizes that differ by one at most."""
    order = torch.randperm(len(questions), generator=generator).to(questions.device)
    fold = order % num_folds
    return [(questions[fold != i], questions[fold == i]) for i in range(num_folds)]


def _auc_by_head(
    scores: Float[Tensor, "questions all_heads passages"], has_answer: Bool[Tensor, "questions passages"]
) -> Float[Tensor, "questions all_heads"]:
    """`teacher_auc` of every question by every head, one head at a time: pairs of passages take memory."""
    return torch.stack([teacher_auc(head, has_answer) for head in scores.unbind(dim=1)], dim=1)
