"""Calibration: what a passage gets whatever is asked, taken off what it gets for the question. Pure maths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from datamodules.batches import Batch, PromptBatch, Question
from datamodules.choices import Choice

_TINY = 1e-9
"""Attention below this is none: what a logarithm is taken of is at least this."""
FEWEST_UNRELATED = 2
"""Questions that attention can be calibrated by, of which one may be the question's own."""


class Reference(Choice):
    """What is asked of a passage to learn what it gets in any case."""

    NONE = "none"
    CONTENT_FREE = "content_free"
    """The question "N/A", with the same answer (ICR)."""
    UNRELATED = "unrelated"
    """Other questions with their own answers, averaged: a prior of the passage."""


class Contrast(Choice):
    """How the reference is taken off."""

    DIFFERENCE = "difference"
    LOG_RATIO = "log_ratio"


class Level(Choice):
    """Of what it is taken off."""

    PASSAGE = "passage"
    """The passage's score."""
    TOKEN = "token"
    """Each token's score; tokens more than two standard deviations below their passage's mean are left out
    (ICR)."""


@dataclass(frozen=True)
class Calibration:
    """How the attention on a passage is calibrated.

    Attributes:
        reference, contrast, level: see there.
        unrelated: (question, answer) pairs, for `unrelated`, one more than are asked: a question takes the
            first ones that are not itself, so that what it is compared with does not depend on its batch.

    Raises:
        ValueError: `unrelated` without a second question to take where one is the question's own.
    """

    reference: Reference | str = Reference.NONE
    contrast: Contrast | str = Contrast.LOG_RATIO
    level: Level | str = Level.PASSAGE
    unrelated: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for name, choice in (("reference", Reference), ("contrast", Contrast), ("level", Level)):
            object.__setattr__(self, name, choice(getattr(self, name)))
        answers = {str(question): str(answer) for question, answer in self.unrelated}
        object.__setattr__(self, "unrelated", tuple(answers.items()))
        if self.reference is Reference.UNRELATED and len(answers) < FEWEST_UNRELATED:
            raise ValueError("unrelated: give at least two questions with their answers")

    @classmethod
    def of(cls, settings: "Calibration | Mapping[str, object]") -> "Calibration":
        """From its settings by name."""
        return settings if isinstance(settings, Calibration) else cls(**settings)  # type: ignore[arg-type]

    def batches(self, batch: Batch) -> list[Batch]:
        """The same passages with what else is asked of them, one batch for each reference question."""
        reference = Reference(self.reference)
        match reference:
            case Reference.NONE:
                return []
            case Reference.CONTENT_FREE:
                asked = [[Question("content-free", "N/A", question.answers)] for question in batch.questions]
                answers = [[answer] for answer in batch.answers]
            case Reference.UNRELATED:
                others = [self._others_than(question) for question in batch.questions]
                asked = [[Question("unrelated", q, (a,)) for q, a in pairs] for pairs in others]
                answers = [[a for _, a in pairs] for pairs in others]
            case _:
                assert_never(reference)
        return [
            replace(batch, questions=list(questions), answers=list(of_them))
            for questions, of_them in zip(zip(*asked, strict=True), zip(*answers, strict=True), strict=True)
        ]

    def _others_than(self, question: Question) -> list[tuple[str, str]]:
        others = [pair for pair in self.unrelated if pair[0] != question.text]
        return others[: len(self.unrelated) - 1]

    def passage_scores(
        self,
        scores: Float[Tensor, "prompts tokens"],
        prompts: PromptBatch,
        references: Sequence[tuple[Float[Tensor, "prompts _"], PromptBatch]],
    ) -> Float[Tensor, "batch passages"]:
        """Calibrated scores of the passages, one in each prompt.

        Args:
            scores, prompts: token scores of the question itself.
            references: the same for each of `batches`, over the same passages.
        """
        shape = (prompts.num_questions, prompts.num_passages)
        if not references:
            own, _ = _packed(scores, prompts.content_mask)
            return own.sum(dim=1).view(shape)
        shared = shared_tokens([prompts, *(asked for _, asked in references)])
        own, mask = _packed(scores, shared[0])
        others = [
            _packed(of_tokens, wanted)[0]
            for (of_tokens, _), wanted in zip(references, shared[1:], strict=True)
        ]
        prior = torch.stack(others).mean(dim=0)
        level = Level(self.level)
        match level:
            case Level.PASSAGE:
                calibrated = self._contrast(own.sum(dim=1), prior.sum(dim=1))
            case Level.TOKEN:
                by_token = self._contrast(own, prior)
                kept = mask & ~_are_outliers(by_token, mask)
                total = (by_token * kept).sum(dim=1)
                # the sum of logarithms would grow with the passage
                calibrated = total / kept.sum(dim=1) if self.contrast is Contrast.LOG_RATIO else total
            case _:
                assert_never(level)
        return calibrated.view(shape)

    def _contrast(self, own: Tensor, prior: Tensor) -> Tensor:
        contrast = Contrast(self.contrast)
        match contrast:
            case Contrast.DIFFERENCE:
                return own - prior
            case Contrast.LOG_RATIO:
                return own.clamp(min=_TINY).log() - prior.clamp(min=_TINY).log()
            case _:
                assert_never(contrast)

    @classmethod
    def compared(cls, unrelated: Sequence[tuple[str, str]] = ()) -> list["Calibration"]:
        """Every way to calibrate, by unrelated questions only where there are enough of them."""
        asked = tuple(unrelated)
        references = [Reference.CONTENT_FREE]
        if len({question for question, _ in asked}) >= FEWEST_UNRELATED:
            references.append(Reference.UNRELATED)
        return [
            cls(reference, contrast, level, asked if reference is Reference.UNRELATED else ())
            for reference in references
            for contrast in Contrast
            for level in Level
        ]

    @property
    def details(self) -> tuple[str, ...]:
        """In words; none without calibration."""
        if self.reference is Reference.NONE:
            return ()
        contrast = "less" if self.contrast is Contrast.DIFFERENCE else "over"
        by = " by token" if self.level is Level.TOKEN else ""
        return (f"{contrast} {self.reference}{by}",)


def shared_tokens(prompts: Sequence[PromptBatch]) -> list[Bool[Tensor, "prompts _"]]:
    """Of each batch of prompts, the passages' tokens that the same prompts of all batches show.

    A longer question leaves less room, so that prompts may show less of the same passage: each title and each
    text counts as far as the shortest of it goes, wherever a template has it.

    Args:
        prompts: the same passages in the same template, under other questions.
    """
    shared = [torch.zeros_like(of_batch.content_mask) for of_batch in prompts]
    for part in range(1, max(int(of_batch.content_part.max()) for of_batch in prompts) + 1):
        masks = [of_batch.content_part == part for of_batch in prompts]
        fewest = torch.stack([mask.sum(dim=1) for mask in masks]).amin(dim=0)
        for kept, mask in zip(shared, masks, strict=True):
            kept |= mask & (mask.cumsum(dim=1) <= fewest[:, None])
    return shared


def _packed(
    scores: Float[Tensor, "prompts tokens"], wanted: Bool[Tensor, "prompts tokens"]
) -> tuple[Float[Tensor, "prompts most"], Bool[Tensor, "prompts most"]]:
    """The scores of each prompt's wanted tokens, moved to the left in order, and which are real."""
    order = wanted.logical_not().to(torch.int8).argsort(dim=1, stable=True)[:, : int(wanted.sum(dim=1).max())]
    mask = wanted.gather(1, order)
    return scores.gather(1, order) * mask, mask


def _are_outliers(
    values: Float[Tensor, "prompts tokens"], mask: Bool[Tensor, "prompts tokens"]
) -> Bool[Tensor, "prompts tokens"]:
    """Below the mean of a passage's tokens by more than two of their standard deviations."""
    count = mask.sum(dim=1, keepdim=True).clamp(min=1)
    mean = (values * mask).sum(dim=1, keepdim=True) / count
    deviation = (((values - mean) * mask).square().sum(dim=1, keepdim=True) / count).sqrt()
    return mask & (values < mean - 2 * deviation)
