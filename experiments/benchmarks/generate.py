"""Answers to several questions at once, beside one question at a time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from datamodules.batches import Batch
from datamodules.prompts import Context
from experiments.benchmarks import made_up
from experiments.benchmarks.comparison import Comparison, Setting, Size, TimesFaster, in_turns
from lightning_modules.readers.base import Reader
from lightning_modules.readers.decoder_only import DecoderOnlyReader

_NEW_TOKENS = 16
_MOSTLY = 0.75
"""Share of the answers that must be the same: the order of sums differs, and a tie may fall the other way."""


def measure(setting: Setting) -> list[Comparison]:
    """In both contexts."""
    reader, batch = _reader_and_batch(setting)
    found = []
    for context in Context:
        shown = reader.showing(context=context)
        agreement = _agreement(_together(shown, batch), _one_by_one(shown, batch))
        works: dict[str, Callable[[], object]] = {
            "together": partial(_together, shown, batch),
            "one by one": partial(_one_by_one, shown, batch),
            "prompts": partial(_prompts_alone, shown, batch),  # what no way of decoding can go without
        }
        works["prompts"]()  # warms up what was not done just now
        took = in_turns(works, setting, is_warm=True)
        what = f"{context.value}, {len(batch)} questions, at most {_NEW_TOKENS} tokens each"
        together = took["together"]
        found += [
            Comparison(what, "one at a time", together, took["one by one"], TimesFaster(2), agreement),
            Comparison(what, "a pass over the prompts alone", together, took["prompts"]),
        ]
    return found


def _reader_and_batch(setting: Setting) -> tuple[DecoderOnlyReader, Batch]:
    if setting.size is Size.TINY:
        model = made_up.smollm2(setting.device, torch.float32, 2, 32, 4, 2, 48, made_up.VOCABULARY)
        return made_up.decoder_only(model), made_up.made_up_batch(3, num_passages=2, passage_words=8)
    from datamodules import embedded
    from lightning_modules.readers.families import load_reader

    reader = load_reader(embedded.reader_gguf(), dtype=torch.bfloat16)
    assert isinstance(reader, DecoderOnlyReader)
    number = 32 if setting.size is Size.FULL else 4
    return reader.to(setting.device).eval(), made_up.made_up_batch(number)


def _together(reader: Reader, batch: Batch) -> list[str]:
    uniform = torch.zeros(len(batch), batch.num_passages, device=reader.device).log_softmax(dim=-1)
    return reader.generate(batch, uniform, _NEW_TOKENS)


@torch.no_grad()
def _prompts_alone(reader: Reader, batch: Batch) -> None:
    prompts = reader.prompts.build(replace(batch, answers=())).to(reader.device)
    reader.model.base_model(prompts.input_ids, attention_mask=prompts.attention_mask)


def _one_by_one(reader: Reader, batch: Batch) -> list[str]:
    ones = zip(batch.questions, batch.passages, strict=True)
    return [_together(reader, Batch([question], [passages]))[0] for question, passages in ones]


def _agreement(together: Sequence[str], one_by_one: Sequence[str]) -> str:
    same = sum(one == other for one, other in zip(together, one_by_one, strict=True))
    if same < _MOSTLY * len(together):
        raise ValueError(f"only {same} of {len(together)} answers are the same as one by one")
    return f"{same} of {len(together)} answers the same"
