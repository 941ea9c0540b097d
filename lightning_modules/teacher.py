"""The teacher: what of a reader the retriever learns from, as a distribution over the retrieved passages."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.batches import Passage, Question
from datamodules.prompts import Shown
from lightning_modules.eval_mode import eval_mode
from lightning_modules.objectives import (
    ATLAS_PASSAGE_LENGTH,
    AnswerLikelihoods,
    Constants,
    Objective,
    answer_log_likelihood,
    distillation_loss,
    leave_one_out_marginals,
    leave_one_out_scores,
    log_p_of_scores,
    log_p_posterior,
    marginal_likelihood_loss,
)
from lightning_modules.readers.reader import Reader, Reading
from lightning_modules.scores import (
    AttentionDistribution,
    PassageScore,
    log_p_attn,
    passage_scores_of_rows,
)


@dataclass(frozen=True)
class Teacher:
    r"""An objective with its settings.

    .. math::
        p_{ATTN}(n_i | Q, A) = \mathrm{softmax}_i \Big( \sum_{t \in n_i} s_t / \tau \Big)

    is what ADist teaches (Eq. 1; the paper leaves tau out); the other objectives have their own target in
    place of p_ATTN (`lightning_modules.objectives`).

    Attributes:
        objective: `adist`, `pdist`, `emdr2` or `loop`.
        passage_score: token scores -> passage score (ADist).
        attention_distribution: passage scores -> p_ATTN (ADist).
        attention_temperature: tau_gold, which the scores of ADist, PDist and LOOP are divided by.
        reader_temperature: what EMDR2 divides the reader's logits by (Atlas uses tau_gold for it, too).
        constants: scale factors, `plain` or `atlas`.
    """

    objective: Objective | str = Objective.ADIST
    passage_score: PassageScore | str = PassageScore.SUM
    attention_distribution: AttentionDistribution | str = AttentionDistribution.SOFTMAX
    attention_temperature: float = 1.0
    reader_temperature: float = 1.0
    constants: Constants | str = Constants.PLAIN

    def __post_init__(self) -> None:
        for name, choice in (
            ("objective", Objective),
            ("passage_score", PassageScore),
            ("attention_distribution", AttentionDistribution),
            ("constants", Constants),
        ):
            object.__setattr__(self, name, choice(getattr(self, name)))

    @property
    def loss_name(self) -> str:
        """What the retriever's loss is logged as."""
        return "emdr2" if self.objective is Objective.EMDR2 else "kl"

    def teach(
        self,
        reader: Reader,
        questions: Sequence[Question],
        passages: Sequence[Sequence[Passage]],
        answers: Sequence[str],
        order_seed: int = 0,
    ) -> Reading | AnswerLikelihoods:
        """What the objective needs of the reader: the answer's attention, or its likelihoods.

        In eval mode (no dropout) and without gradient.
        """
        with torch.no_grad(), eval_mode(reader):
            if self.objective is Objective.ADIST:
                return reader.read(questions, passages, answers, order_seed)
            leaves_out = self.objective is Objective.LOOP
            return reader.answer_likelihoods(
                questions,
                passages,
                answers,
                Shown.EACH_LEFT_OUT if leaves_out else Shown.EACH_ALONE,
                order_seed,
                # Atlas softens the other objectives' scores, and here what they would be made of
                self.reader_temperature if self.objective is Objective.EMDR2 else 1.0,
            )

    def log_p_target(
        self, taught: Reading | AnswerLikelihoods, log_p_retr: Float[Tensor, "batch passages"]
    ) -> Float[Tensor, "batch passages"]:
        """The teacher's distribution over the passages, p_ATTN for ADist; without gradient."""
        if isinstance(taught, Reading):
            return self.log_p_attn(taught)
        log_p_retr = log_p_retr.detach()
        log_probs, mask = taught.log_probs, taught.mask
        if self.objective is Objective.EMDR2:
            return log_p_posterior(log_probs, mask, log_p_retr)
        if self.objective is Objective.PDIST:
            return log_p_of_scores(answer_log_likelihood(log_probs, mask), self.attention_temperature)
        if not taught.leaves_out:
            log_probs = leave_one_out_marginals(log_probs, log_p_retr)
        return log_p_of_scores(leave_one_out_scores(log_probs, mask), self.attention_temperature)

    def length_divisor(self, passage_score: PassageScore | str | None) -> int:
        """What passage scores are divided by before the temperature: Atlas's length of one, for sums."""
        is_atlas_sum = self.constants is Constants.ATLAS and passage_score == PassageScore.SUM
        return ATLAS_PASSAGE_LENGTH if is_atlas_sum else 1

    def log_p_attn(self, reading: Reading) -> Float[Tensor, "batch passages"]:
        """log p_ATTN (Eq. 1) from the token scores s_t."""
        prompts = reading.prompts
        assert reading.row_scores is not None
        assert reading.row_mask is not None
        scores = passage_scores_of_rows(
            reading.row_scores,
            reading.row_mask,
            prompts.passage_of_token,
            prompts.question_of_prompt,
            prompts.num_questions,
            prompts.num_passages,
            self.passage_score,
        )
        scores = scores / self.length_divisor(self.passage_score)
        return log_p_attn(scores, self.attention_distribution, self.attention_temperature)

    def retriever_loss(
        self, taught: Reading | AnswerLikelihoods, log_p_retr: Float[Tensor, "batch passages"]
    ) -> Float[Tensor, ""]:
        """KL(teacher || p_RETR); the marginal likelihood for EMDR2."""
        if self.objective is Objective.EMDR2:
            assert isinstance(taught, AnswerLikelihoods)
            return marginal_likelihood_loss(taught.log_probs, taught.mask, log_p_retr, self.constants)
        return distillation_loss(self.log_p_target(taught, log_p_retr), log_p_retr, self.constants)
