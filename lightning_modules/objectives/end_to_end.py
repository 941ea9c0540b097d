"""End to end: the retriever learns through the reader's attention, from the answer's likelihood."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from datamodules.batches import Batch
from datamodules.prompts import Context
from lightning_modules.objectives.base import Cost, Objective, Passes
from lightning_modules.readers.base import Reader
from lightning_modules.readers.outputs import WeightedPass


@dataclass(frozen=True)
class EndToEnd(Objective[WeightedPass]):
    r"""The answer's likelihood where p_RETR weighs the reader's attention, as in DREAM (arXiv 2606.24667).

    .. math::
        \alpha[row, t] &\propto p_{RETR}(n_i \mid Q) \exp(q_{row} \cdot k_t / \sqrt d), \quad t \in n_i \\
        L &= - \mathrm{mean}_t \log p(a_t \mid a_{<t}, D_n, Q; p_{RETR})

    The reader sees all passages in one prompt. Its rows after the passages (the question's last copy and the
    answer) attend in this way, in the heads of `attention_heads` of every layer; all other rows as ever. The
    gradient runs back through the reader, which takes none, into p_RETR. A question without an answer teaches
    by its own tokens. Both kinds of constants agree on the loss.
    """

    name: ClassVar[str] = "end_to_end"
    loss_name: ClassVar[str] = "nll"
    cost: ClassVar[Cost] = Cost.BACKWARD
    fewest_passages: ClassVar[int] = 2
    uses_attention: ClassVar[bool] = True
    takes_others: ClassVar[bool] = False

    @property
    def needs_answers(self) -> bool:
        return False

    def unfit(self, reader: Reader) -> str | None:
        if reader.context is Context.CONCATENATED:
            return None
        return (
            f"{self.name} weighs attention between passages that are read together: use a decoder-only "
            "reader with context concatenated, or another objective"
        )

    def read(self, reader: Passes, batch: Batch) -> WeightedPass:
        return reader.read_weighted(batch)

    def passage_scores(
        self, output: WeightedPass, log_p_retr: Float[Tensor, "batch passages"]
    ) -> Float[Tensor, "batch passages"]:
        """Minus the gradient of a question's loss with respect to s(n_i, Q) / theta: where training moves it.

        0 in sum: what one passage gains the others lose.
        """
        gradient = output.at(log_p_retr).gradient
        return gradient - log_p_retr.exp() * gradient.sum(dim=-1, keepdim=True)

    def log_p_of_scores(self, scores: Float[Tensor, "batch passages"]) -> Float[Tensor, "batch passages"]:
        """What a step of 1 along the gradient makes of equal passages: log softmax."""
        return scores.log_softmax(dim=-1)

    def loss(
        self,
        log_p_target: Float[Tensor, "batch passages"],
        log_p_retr: Float[Tensor, "batch passages"],
        output: WeightedPass,
    ) -> Float[Tensor, ""]:
        """Mean over questions of the mean label token's negative log-likelihood.

        The pass has been made backward already: the loss holds its gradient as the slope of a line.
        """
        made = output.at(log_p_retr)
        slope = made.gradient * (log_p_retr - log_p_retr.detach())
        return -(made.log_probs + slope.sum(dim=-1)).mean()
