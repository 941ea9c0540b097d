"""What every reader offers: passes that score the passages' tokens, likelihoods of the answer, answers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from datamodules.batches import Batch, Question
from datamodules.prompts import Context, PromptBuilder, Shown
from lightning_modules.adapters import add_adapters, merged_weights
from lightning_modules.attention_heads import HeadSource
from lightning_modules.eval_mode import eval_mode, has_dropout
from lightning_modules.loading import ModelError, save_pretrained
from lightning_modules.readers.outputs import (
    AnswerLikelihoods,
    AnswerOutput,
    AttentionOutput,
    DropOutput,
    EmbeddedPass,
    HeadOutput,
    QuestionHeadOutput,
    QuestionOutput,
    ReaderOutput,
    SignalOutput,
    WeightedPass,
)
from lightning_modules.readers.outputs import TokenEmbeddings as TokenEmbeddings
from lightning_modules.sharding import ShardedLayers
from lightning_modules.token_drops import TokenDrops, drops_of_pass


class Reader(nn.Module, ABC):
    """A language model that answers from retrieved passages.

    Args:
        model: loaded with `attn_implementation="sdpa"`.
        prompts: how it sees the passages.
        attention_heads: the heads whose attention makes the token scores, or where they are listed; None =
            all.

    Raises:
        ValueError: a model of another architecture, one that lacks a chosen head, or one that a list is not
            of.

    Attributes:
        is_sharded: whether other processes hold parts of its layers.
    """

    family: ClassVar[str]
    """What `reader.family` calls it."""

    model: Any
    prompts: PromptBuilder

    def __init__(
        self, model: PreTrainedModel, prompts: PromptBuilder, attention_heads: HeadSource | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.prompts = prompts
        self.attention_heads = None if attention_heads is None else attention_heads.heads_of(model)
        self.is_sharded = False
        self.heads_mask = None
        if self.attention_heads is not None:
            self.heads_mask = self.attention_heads.mask(*self.num_layers_and_heads)

    # ---- what a family is ----

    @classmethod
    @abstractmethod
    def accepts(cls, config: PreTrainedConfig) -> bool:
        """Whether a model with this configuration is made into a reader of this family."""

    @classmethod
    @abstractmethod
    def load(
        cls,
        name: str | Path,
        attention_heads: HeadSource | None = None,
        dtype: torch.dtype = torch.float32,
        **prompts: Any,
    ) -> "Reader":
        """A reader from the hub, a folder or a file.

        Args:
            name: hub name, folder, or a .gguf file.
            attention_heads: see `Reader`.
            dtype: of the weights and of the passes; token scores and log-probabilities are float32 always.
            prompts: settings of prompt builders; a family takes those that it has.

        Raises:
            ModelError: not to be loaded, or of another architecture.
            ValueError: heads that the model lacks, or a list of another model's.
        """

    @property
    @abstractmethod
    def contexts(self) -> Sequence[Context | None]:
        """The ways in which it can show several passages; None stands for the only way of its family."""

    @property
    @abstractmethod
    def context(self) -> Context | None:
        """The one of `contexts` in which it shows them."""

    @property
    @abstractmethod
    def reads_alone(self) -> bool:
        """Whether it never sees two passages at a time, so that one pass gives each passage's likelihood."""

    @property
    def gives_signals(self) -> bool:
        """Whether one pass gives all signals of each passage alone (`read_signals`)."""
        return False

    @property
    @abstractmethod
    def num_layers_and_heads(self) -> tuple[int, int]:
        """Of the attention that is scored."""

    @property
    @abstractmethod
    def embedding_matrix(self) -> Float[Tensor, "vocabulary dim"]:
        """The input embeddings of what reads the passages, in their own precision, without gradient."""

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.prompts.tokenizer

    @property
    def num_examples(self) -> int:
        """Solved examples that it is shown before each prompt."""
        return len(self.prompts.examples)

    @property
    def has_dropout(self) -> bool:
        """Whether a pass in train mode may differ from one in eval mode."""
        return has_dropout(self.model)

    def showing(self, **changes: Any) -> "Reader":
        """A reader of the same model that is shown the passages in another way.

        Args:
            changes: settings of the prompt builder, such as `context`, `passage_order` or `examples`.
        """
        return type(self)(self.model, self.prompts.changed(**changes), self.attention_heads)

    # ---- passes ----

    @abstractmethod
    def read(self, batch: Batch) -> AttentionOutput:
        """Reads passages and answers once, and scores every token by the answer's attention."""

    def read_attention(self, batch: Batch) -> AttentionOutput:
        """`read` for its token scores alone: the same ones, while `hidden` may be None.

        A family whose hidden states come last may end the pass with the last layer that a chosen head is in.
        """
        return self.read(batch)

    @abstractmethod
    def read_answer(self, batch: Batch) -> AnswerOutput:
        """`read`, with the answer's log-probabilities and their gradient: the reader is trained on them."""

    @abstractmethod
    def read_heads(self, batch: Batch) -> HeadOutput:
        """`read_answer`, with the token scores of every head."""

    def read_question_heads(self, batch: Batch) -> QuestionHeadOutput:
        """`read_heads`, with those of the question's rows too.

        Raises:
            ValueError: a family whose attended rows hold no question.
        """
        raise ValueError(
            f"the attention of this {self.family} reader has rows of the answer alone, none of the question; "
            "set rows to answer"
        )

    def read_signals(self, batch: Batch) -> SignalOutput:
        """`read_answer`, with the token scores of the question's rows too.

        Raises:
            ValueError: a family whose attended rows hold no question, or prompts that show several passages.
        """
        raise ValueError(
            f"this {self.family} reader does not give all signals in one pass over each passage alone; use a "
            "decoder-only reader with context independent"
        )

    def read_question(self, batch: Batch) -> QuestionOutput:
        """`read`, with the token scores of the question's rows too: the signals that are attention.

        Raises:
            ValueError: as `read_signals`.
        """
        return self.read_signals(batch)

    def read_question_attention(self, batch: Batch) -> QuestionOutput:
        """`read_question` for its token scores alone: the same ones, while `hidden` may be None.

        A family may end the pass with the last layer that a chosen head is in, as in `read_attention`.
        """
        return self.read_question(batch)

    def read_weighted(self, batch: Batch) -> WeightedPass:
        """A pass in which the attention that question and answer pay to each passage takes a weight.

        In the chosen heads (`attention_heads`) of every layer, log-weights are added to the attention logits
        of each passage's tokens, the template's words around them included, in the rows after the last
        passage. In eval mode; nothing is read before weights are given.

        Args:
            batch: as in `read`; without answers, the question's own tokens are predicted in their place, in
                the prompt's last copy of it.

        Raises:
            ValueError: a reader that does not see all passages in one prompt.
        """
        raise ValueError(
            f"this {self.family} reader does not see all passages in one prompt, where attention can be "
            "weighted between them; use a decoder-only reader with context concatenated"
        )

    @abstractmethod
    def answer_likelihoods(self, batch: Batch, shown: Shown, temperature: float = 1.0) -> AnswerLikelihoods:
        """How likely the answer is given each passage alone, or given all passages but one.

        A reader that `reads_alone` answers `EACH_LEFT_OUT` with each alone (`AnswerLikelihoods.left_out`):
        `leave_one_out_marginals` makes the one of the other.

        Args:
            batch: as in `read`.
            shown: `EACH_ALONE` or `EACH_LEFT_OUT`.
            temperature: what the reader's logits are divided by (Atlas's EMDR2).
        """

    @abstractmethod
    def embed_each_alone(self, batch: Batch) -> EmbeddedPass:
        """A pass over each passage alone from input embeddings, with gradient where it is on."""

    @abstractmethod
    def embed_answer(self, output: ReaderOutput) -> Float[Tensor, "prompts targets dim"]:
        """Contextual embeddings of the answer's tokens, to compare `output.last_hidden` with."""

    def read_drops(self, batch: Batch, how: TokenDrops | str = TokenDrops.MASKED) -> DropOutput:
        """Scores every token by what perplexity distillation looks at, in place of attention.

        s_t is the drop in the answer's mean log-likelihood, given the passage alone, when the token's
        input embedding is masked (set to 0), at least 0. In eval mode, with any grad mode around it; no
        gradient reaches the weights.

        Args:
            batch: as in `read`.
            how: by masking each token for real, of the passages or of the whole prompt, or to first order.
        """
        how = TokenDrops(how)
        with torch.inference_mode(False), torch.set_grad_enabled(how.needs_gradient), eval_mode(self.model):
            made = self.embed_each_alone(batch)
            return DropOutput(made.prompts, made.answer, made.hidden, drops_of_pass(made, how))

    # ---- answers ----

    @abstractmethod
    def answer_loss(
        self, output: AnswerOutput, log_p_retr: Float[Tensor, "batch passages"]
    ) -> Float[Tensor, ""]:
        """Mean over questions of the mean label token's negative log-likelihood; what the reader learns from.

        Args:
            output: of `read_answer`, with gradient.
            log_p_retr: weights of the passages where they are read one by one; no gradient flows into them.
        """

    @abstractmethod
    def generate(
        self, batch: Batch, log_p_retr: Float[Tensor, "batch passages"], max_new_tokens: int = 32
    ) -> list[str]:
        """Greedy answers, one line each; the batch's own answers play no part."""

    @abstractmethod
    def generate_closed_book(self, questions: Sequence[Question], max_new_tokens: int = 32) -> list[str]:
        """Greedy answers from the questions alone, one line each."""

    # ---- where its weights are ----

    def why_not_sharded(self) -> str | None:
        """Why its layers cannot be sharded over processes; None = they can."""
        return f"a {self.family} reader cannot be sharded"

    def shard(self, device: torch.device) -> ShardedLayers:
        """Shards the layers over the processes, on their devices; for reading alone.

        Args:
            device: of this process.

        Raises:
            ModelError: a model that cannot be sharded.
        """
        assert not any(weight.requires_grad for weight in self.model.parameters()), "it is frozen"
        sharded = ShardedLayers(self.model, device)
        self.is_sharded = True
        return sharded

    # ---- how it is trained ----

    def add_adapters(self, rank: int, alpha: float | None = None) -> None:
        """From now on learns by LoRA: small matrices beside its weights, which stay as they are.

        Args:
            rank: of the matrices.
            alpha: they are scaled with alpha / rank; None = 2 * rank.

        Raises:
            ModelError: the package peft is not installed.
        """
        add_adapters(self.model, rank, alpha)

    def recompute_activations(self) -> None:
        """From now on keeps a layer's input alone of each pass that it learns from, and makes the pass again.

        Saves most of the memory for about a third more time (gradient checkpointing).

        Raises:
            ModelError: a model that cannot.
        """
        if not self.model.supports_gradient_checkpointing:
            raise ModelError(
                f"gradient_checkpointing: {self.model.config.model_type} models cannot; set "
                "gradient_checkpointing=False"
            )
        self.model.activation_checkpointing_enable()

    def save(self, folder: Path | str) -> None:
        """Writes model and tokenizer (safetensors) where `lightning_modules.loading` reads them.

        Adapters are added to the weights that they are beside: what is written is a plain model.
        """
        save_pretrained(self.model, self.tokenizer, Path(folder), merged_weights(self.model))


def log_probs_of(
    logits: Float[Tensor, "answers labels vocabulary"],
    labels: Int[Tensor, "answers labels"],
    temperature: float = 1.0,
) -> Float[Tensor, "answers labels"]:
    """log softmax(logits / temperature) of each label, in float32 at least."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (logits / temperature).log_softmax(dim=-1).gather(-1, labels[..., None])[..., 0]
