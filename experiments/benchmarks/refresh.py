"""Encoding the corpus for an index: passages of similar length together, beside those in the file's order.

All pad a batch to its longest passage. In the suite's way texts are also tokenised while the batch before is
encoded. What sorting by tokens gives beyond sorting by characters stands in a row of its own.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from datamodules.batches import Passage, in_batches
from experiments.benchmarks import made_up
from experiments.benchmarks.comparison import (
    Comparison,
    Setting,
    Size,
    TimesFaster,
    agreement_of,
    in_turns,
)
from lightning_modules.encoding import encode_passages
from lightning_modules.retriever import Retriever

_BATCH_SIZE = 64
_WITHIN = 1e-4
_LAYERS = 3
"""Of MiniLM: quickstart's retriever."""


def measure(setting: Setting) -> list[Comparison]:
    """In float32."""
    retriever, passages = models_and_passages(setting)
    retriever = retriever.to(setting.device).eval()
    by_length, in_order = _by_length(retriever, passages), _in_order(retriever, passages)
    agreement = f"{agreement_of('vectors', by_length, in_order, _WITHIN)}, in float32"
    by_characters = sorted(passages, key=lambda passage: len(passage.full_text))
    works: dict[str, Callable[[], Tensor]] = {
        "suite": lambda: _by_length(retriever, passages),
        "characters": lambda: _in_order(retriever, by_characters),
        "baseline": lambda: _in_order(retriever, passages),
    }
    took = in_turns(works, setting, is_warm=True)
    what = f"{len(passages):,} passages of the embedded corpus in float32"
    return [
        Comparison(what, "the file's order", took["suite"], took["baseline"], TimesFaster(1.6), agreement),
        Comparison(what, "sorted by characters", took["suite"], took["characters"], TimesFaster(1.0)),
    ]


def models_and_passages(setting: Setting) -> tuple[Retriever, list[Passage]]:
    """The embedded retriever and every tenth passage, or all."""
    if setting.size is Size.TINY:
        small = made_up.bert(setting.device, torch.float32, 1, 32, 4, 48, made_up.VOCABULARY)
        return made_up.retriever(small), made_up.made_up_passages(70, (3, 40))
    from datamodules import embedded

    retriever = Retriever.load(embedded.retriever_folder(), num_layers=_LAYERS)
    passages = list(embedded.read_vital_passages())
    return retriever, passages if setting.size is Size.FULL else passages[::10]


def _by_length(retriever: Retriever, passages: list[Passage]) -> Tensor:
    return torch.from_numpy(encode_passages(retriever, passages, _BATCH_SIZE))


@torch.no_grad()
def _in_order(retriever: Retriever, passages: list[Passage]) -> Tensor:
    batches = in_batches(passages, _BATCH_SIZE)
    return torch.cat([retriever.encode_passages(batch).cpu() for batch in batches])
