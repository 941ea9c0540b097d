"""A frozen reader in bfloat16 (`reader.dtype=auto`, where the processor multiplies it), beside float32.

Both read the same prompts, questions with what BM25 finds for them, and score passages as `quickstart` does.
The two must come to about the same target for the retriever.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from datamodules.batches import Batch
from experiments.benchmarks import made_up
from experiments.benchmarks.comparison import Comparison, Setting, Size, TimesFaster, in_turns
from lightning_modules.objectives.base import TeachingPasses
from lightning_modules.objectives.signals import Signals
from lightning_modules.readers.base import Reader

_WITHIN = 0.1
"""Of a share of the target, on average: bfloat16 has eight binary digits."""


def measure(setting: Setting) -> list[Comparison]:
    """Of eight questions with three passages each, all in one batch."""
    in_single, in_half = (reader_in(dtype, setting) for dtype in (torch.float32, torch.bfloat16))
    batch = batch_to_read(setting)
    agreement = _agreement(target(in_half, batch), target(in_single, batch))
    works: dict[str, Callable[[], Tensor]] = {
        "bfloat16": partial(target, in_half, batch),
        "float32": partial(target, in_single, batch),
    }
    took = in_turns(works, setting, is_warm=True)
    what = f"{len(batch)} questions with {batch.num_passages} passages each in bfloat16"
    return [Comparison(what, "float32", took["bfloat16"], took["float32"], TimesFaster(1.0), agreement)]


def reader_in(dtype: torch.dtype, setting: Setting) -> Reader:
    """The embedded reader, each passage alone."""
    if setting.size is Size.TINY:
        torch.manual_seed(0)
        model = made_up.smollm2(setting.device, dtype, 2, 32, 4, 2, 48, made_up.VOCABULARY)
        return made_up.decoder_only(model)
    from datamodules import embedded
    from lightning_modules.readers.families import load_reader

    reader = load_reader(embedded.reader_gguf(), context="independent", dtype=dtype)
    return reader.to(setting.device).eval()


def batch_to_read(setting: Setting) -> Batch:
    """Training questions, with what BM25 finds for them in a fifth of the embedded corpus."""
    if setting.size is Size.TINY:
        return made_up.made_up_batch(4, num_passages=3, passage_words=12)
    from datamodules import embedded
    from datamodules.bm25 import BM25Index
    from datamodules.passages import build_knowledge_base
    from datamodules.questions import read_questions
    from datamodules.vital import vital_questions_file

    questions = read_questions(vital_questions_file("train"), limit=8)
    with TemporaryDirectory() as folder:
        passages = list(embedded.read_vital_passages())[::5]
        knowledge_base = build_knowledge_base(passages, Path(folder) / "passages.arrow")
        _, found = BM25Index.build(knowledge_base).search([question.text for question in questions], 3)
        candidates = [knowledge_base.select(rows) for rows in found.tolist()]
    return Batch(questions, candidates, [question.answers[0] for question in questions])


@torch.no_grad()
def target(reader: Reader, batch: Batch) -> Tensor:
    """What the retriever's distribution over the passages is to become."""
    objective = Signals(signals={"question": 1.0, "likelihood": 1.0}, attention_temperature=0.5)
    uniform = torch.zeros(len(batch), batch.num_passages, device=reader.device).log_softmax(dim=-1)
    return objective.log_p_target(objective.read(TeachingPasses(reader), batch), uniform).exp()


def _agreement(half: Tensor, single: Tensor) -> str:
    difference = float((half - single).abs().mean())
    same = int((half.argmax(dim=1) == single.argmax(dim=1)).sum())
    if not difference <= _WITHIN:
        raise ValueError(
            f"the target's shares differ by {difference:.2g} on average, where {_WITHIN:g} is much"
        )
    return (
        f"the target's shares differ by {difference:.2g} on average; "
        f"the same passage first for {same} of {len(single)} questions"
    )
