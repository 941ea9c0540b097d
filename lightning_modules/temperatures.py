"""Which temperature leaves something to learn: one at which p_RETR is neither one-hot nor flat."""

from collections.abc import Sequence

import torch

from datamodules.batches import Batch, Question, in_batches
from lightning_modules.eval_mode import eval_mode
from lightning_modules.retriever_reader import RetrieverReaderModule

USEFUL_SPREAD = 2.0
"""Standard deviation of scores / temperature over a question's passages at which training starts well."""
_READ_TOGETHER = 8


@torch.no_grad()
def fitting_temperature(module: RetrieverReaderModule, questions: Sequence[Question]) -> float:
    """theta at which the scores of a question's K candidates differ by `USEFUL_SPREAD` in the median.

    How far scores lie apart differs a hundredfold between retrievers: dot products of Contriever by about 1,
    cosines by about 0.05.

    Args:
        module: with its index; its own temperature does not matter.
        questions: whose candidates are looked at.

    Returns:
        With two significant digits, the same on every machine.

    Raises:
        ValueError: all candidates of most questions have the same score.
    """
    spreads = []
    with module.evaluating(retrieval_temperature=1.0), eval_mode(module.retriever):
        for asked in in_batches(questions, _READ_TOGETHER):
            log_p = module.log_p_retr(Batch(asked, module.retrieve_candidates(asked)))
            spreads.append(log_p.std(dim=-1, correction=0))
    spread = float(torch.cat(spreads).median())
    if spread == 0:
        raise ValueError(
            f"retrieval_temperature=None comes from how far the scores of a question's {module.num_passages} "
            "passages lie apart, and they are all equal; give a number, or other passages"
        )
    return float(f"{spread / USEFUL_SPREAD:.2g}")
