"""What every reader offers: read (score the passages while reading) and generate."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Bool, Float
from torch import Tensor, nn

from datamodules.batches import Passage, PromptBatch, Question


@dataclass(frozen=True)
class Reading:
    """What one forward pass over prompts that end with their answers gives.

    Attributes:
        prompts: the prompts that were read.
        token_scores: s_t (Eq. 1), float32, without gradient.
        token_embeddings: contextual embeddings, where asked for.
        vocabulary: the reader's input embedding matrix, where asked for.
        label_log_probs: log-probability of each label token (the answer and its end), right-padded with 0;
            None unless asked for. Carries gradient where the reader is trained.
        label_mask: True = a label.
    """

    prompts: PromptBatch
    token_scores: Float[Tensor, "prompts tokens"]
    token_embeddings: Float[Tensor, "prompts tokens dim"] | None = None
    vocabulary: Float[Tensor, "vocabulary dim"] | None = None
    label_log_probs: Float[Tensor, "prompts labels"] | None = None
    label_mask: Bool[Tensor, "prompts labels"] | None = None


class Reader(nn.Module, ABC):
    """A language model that answers from retrieved passages."""

    @abstractmethod
    def read(
        self,
        questions: Sequence[Question],
        passages: Sequence[Sequence[Passage]],
        answers: Sequence[str],
        order_seed: int = 0,
        with_labels: bool = False,
        embeddings: str | None = None,
    ) -> Reading:
        """Reads the passages up to the end of the answer, collecting the answer's attention on the way.

        Args:
            questions: B questions.
            passages: K retrieved passages for each, best first.
            answers: the answer A that is scored.
            order_seed: what shuffled passages are permuted by.
            with_labels: also give the log-probabilities of the answer.
            embeddings: `input` (embedding matrix) or `contextual` (last hidden layer) token embeddings;
                None = none.
        """

    @abstractmethod
    def answer_loss(self, reading: Reading, log_p_retr: Float[Tensor, "batch passages"]) -> Float[Tensor, ""]:
        """Mean over questions of the mean label token's negative log-likelihood; what the reader learns from.

        Args:
            reading: read `with_labels`, with gradient.
            log_p_retr: weights of the passages where they are read one by one; no gradient flows into them.
        """

    @abstractmethod
    def generate(
        self,
        questions: Sequence[Question],
        passages: Sequence[Sequence[Passage]],
        log_p_retr: Float[Tensor, "batch passages"],
        max_new_tokens: int = 32,
        order_seed: int = 0,
    ) -> list[str]:
        """Greedy answers, one line each."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes model and tokenizer (safetensors) where `lightning_modules.loading` reads them."""

    @property
    @abstractmethod
    def has_dropout(self) -> bool:
        """Whether a pass in train mode differs from one in eval mode."""
