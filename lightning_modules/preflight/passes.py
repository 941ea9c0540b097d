"""A reader's passes over one batch, each made once: many objectives are read off the same ones."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from datamodules.batches import Batch
from datamodules.prompts import Context, Shown
from lightning_modules.eval_mode import eval_mode
from lightning_modules.metrics.head_search import HeadSums
from lightning_modules.objectives import Objective
from lightning_modules.preflight.head_sets import HeadSet
from lightning_modules.preflight.variants import Order, Scores, Variant
from lightning_modules.read_once import ReadOnce
from lightning_modules.readers.base import Reader
from lightning_modules.readers.outputs import (
    AnswerLikelihoods,
    AnswerOutput,
    HeadOutput,
    SignalOutput,
    WeightedPass,
)
from lightning_modules.token_drops import TokenDrops


class KeptPasses:
    """The `lightning_modules.objectives.base.Passes` of a reader over one batch, in eval mode, kept.

    A reader that never sees two passages at a time gives attention of all rows and heads, and all
    likelihoods, in one pass.

    Args:
        reader: that makes the passes.
        batch: the only one that may be asked for.
        read_once: of the same reader, which may have kept them from another run; None = it reads.
    """

    def __init__(self, reader: Reader, batch: Batch, read_once: ReadOnce | None = None) -> None:
        self.reader = reader
        self.batch = batch
        self.read_once = read_once
        self._heads: HeadSums | None = None
        self._output: AnswerOutput | None = None
        self._weighted: WeightedPass | None = None
        self._likelihoods: dict[tuple[Shown, float], AnswerLikelihoods] = {}
        self._references: dict[tuple[tuple[str, str], ...], SignalOutput] = {}

    def read(self, batch: Batch) -> AnswerOutput:
        """See `Reader.read_answer`."""
        assert batch is self.batch, "passes over one batch are kept"
        if self._output is None:
            with torch.no_grad(), eval_mode(self.reader):
                self._output, self._heads = self._read(batch)
        return self._output

    def _read(self, batch: Batch) -> tuple[AnswerOutput, HeadSums]:
        if self.read_once is not None:
            return self.read_once.read_heads(batch)
        if self.reader.gives_signals:
            output: HeadOutput = self.reader.read_question_heads(batch)
        else:
            output = self.reader.read_heads(batch)
        return output, HeadSums.of(output)

    @property
    def head_sums(self) -> HeadSums:
        """Passage scores of every head."""
        self.read(self.batch)
        assert self._heads is not None, "just read"
        return self._heads

    @property
    def likelihood(self) -> Float[Tensor, "batch passages"] | None:
        """Mean log-probability of an answer token given each passage alone; None where that is not read."""
        if not self.reader.reads_alone:
            return None
        return self.answer_likelihoods(self.batch, Shown.EACH_ALONE).mean_log_probs()

    def answer_likelihoods(self, batch: Batch, shown: Shown, temperature: float = 1.0) -> AnswerLikelihoods:
        """See `Reader.answer_likelihoods`."""
        assert batch is self.batch, "passes over one batch are kept"
        if self.reader.reads_alone:
            shown = Shown.EACH_ALONE
        key = shown, temperature
        if key not in self._likelihoods:
            if self.reader.reads_alone and temperature == 1.0:
                self._likelihoods[key] = self.read(batch).each_alone()
            else:
                with torch.no_grad(), eval_mode(self.reader):
                    self._likelihoods[key] = self.reader.answer_likelihoods(batch, shown, temperature)
        return self._likelihoods[key]

    def read_signals(self, batch: Batch) -> SignalOutput:
        """See `Reader.read_signals`; also of what else is asked of the same passages."""
        if batch is not self.batch:
            return self._read_reference(batch)
        output = self.read(batch)
        assert isinstance(output, SignalOutput), "objectives are asked first whether a reader fits"
        return output

    def read_question(self, batch: Batch) -> SignalOutput:
        """See `Reader.read_question`; the same pass."""
        return self.read_signals(batch)

    def _read_reference(self, batch: Batch) -> SignalOutput:
        assert batch.passages is self.batch.passages, "passes over the passages of one batch are kept"
        asked = tuple((q.text, a) for q, a in zip(batch.questions, batch.answers, strict=True))
        if asked not in self._references:
            with torch.no_grad(), eval_mode(self.reader):
                self._references[asked] = (self.read_once or self.reader).read_signals(batch)
        return self._references[asked]

    def read_weighted(self, batch: Batch) -> WeightedPass:
        """See `Reader.read_weighted`."""
        assert batch is self.batch, "passes over one batch are kept"
        if self._weighted is None:
            self._weighted = self.reader.read_weighted(batch)
        return self._weighted

    def read_drops(self, batch: Batch, how: TokenDrops = TokenDrops.MASKED) -> AnswerOutput:
        """Attention: there is no time to mask token by token."""
        return self.read(batch)

    @torch.no_grad()
    def scores(
        self,
        objectives: Iterable[Objective],
        log_p_retr: Float[Tensor, "batch passages"],
        context: Context | None,
        order: Order = Order.RANK,
        head_sets: Sequence[HeadSet] = (),
    ) -> Scores:
        """Passage scores of some objectives from these passes.

        Args:
            objectives: to be scored.
            log_p_retr: log p_RETR of the same passages.
            context, order: of the reader.
            head_sets: with which objectives that look at attention are scored besides.
        """
        objectives = list(objectives)
        num_examples = self.reader.num_examples or None
        found = {
            Variant.of_pass(objective, context, order, num_examples): objective.passage_scores(
                objective.read(self, self.batch), log_p_retr
            )
            for objective in objectives
        }
        for heads in head_sets:
            signals = self.head_sums.of_heads(heads.mask(*self.reader.num_layers_and_heads), self.likelihood)
            for objective in objectives:
                scores = objective.scores_of_signals(signals)
                if scores is not None:
                    found[Variant.of_pass(objective, context, order, num_examples, heads)] = scores
        return found
