"""A batch in parts learns what the whole one does; memory that is short is simulated by the models."""

import logging

import pytest
import torch

from callbacks.refresh_index import RefreshIndex
from datamodules.batches import Batch
from lightning_modules.encoding import build_index
from lightning_modules.objectives import OBJECTIVES, Constants
from lightning_modules.parts_of_batch import PartsOfBatch
from tests.tiny_models import tiny_reader, toy_questions
from tests.toy_training import LIGHTNING_ADVICE, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)


def short_of_memory(module, fits: int, backward: bool = False) -> list[int]:
    """Makes passes of more than so many questions run out of memory; returns the sizes that were tried."""
    tried: list[int] = []
    encode_queries = module.retriever.encode_queries

    def refuse(count: int) -> None:
        if count > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")

    def encode(texts):
        embeddings = encode_queries(texts)
        if torch.is_grad_enabled():
            tried.append(len(texts))
            if backward:
                embeddings.register_hook(lambda gradient: refuse(len(gradient)))
            else:
                refuse(len(texts))
        return embeddings

    module.retriever.encode_queries = encode
    return tried


def train(folder, fits=None, backward=False, **settings):
    """The weights after three steps of four questions each, the losses, and the module."""
    module = toy_module(folder, auto_batch=fits is not None, **settings)
    tried = [] if fits is None else short_of_memory(module, fits, backward)
    index = RefreshIndex("-1", folder / "index", show_progress=False)
    trainer = toy_trainer(folder, [index], max_steps=3, gradient_clip_val=1.0)
    trainer.fit(module, toy_datamodule(batch_size=4))
    trained = torch.cat([weight.detach().flatten() for weight in module.parameters()])
    losses = {name: float(value) for name, value in trainer.callback_metrics.items() if name != "step"}
    return trained, {name: value for name, value in losses.items() if "time" not in name}, tried


@pytest.mark.parametrize(
    ("settings", "backward"),
    [
        ({}, False),
        ({}, True),
        ({"train_reader": True}, True),
        ({"objective": "emdr2"}, False),
        ({"objective": "pdist", "constants": "atlas"}, False),
        ({"train_retriever": False, "train_reader": True}, None),
    ],
)
def test_parts_learn_what_the_batch_does(tmp_path, caplog, settings, backward):
    caplog.set_level(logging.WARNING)
    whole, expected, _ = train(tmp_path, **settings)
    parts, losses, tried = train(
        tmp_path, fits=2 if backward is not None else 4, backward=bool(backward), **settings
    )
    assert losses == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(parts, whole, rtol=0, atol=2e-5)
    start = torch.cat([weight.detach().flatten() for weight in toy_module(tmp_path, **settings).parameters()])
    assert float((whole - start).abs().max()) > 1e-3, "it learns"
    if backward is not None:
        assert tried == [4, 2, 2, 2, 2, 2, 2], "found once, and kept"
        assert caplog.text.count("a batch of 4 questions is computed in parts of 2") == 1


CONTEXT = {"signals": "independent", "end_to_end": "concatenated"}
CASES = [(name, constants) for name in OBJECTIVES for constants in Constants]


@pytest.mark.parametrize(("objective", "constants"), CASES)
def test_parts_of_answers_of_unequal_length_add_up_to_the_batch(tmp_path, objective, constants):
    """Losses and gradients, of both models, or it is refused."""
    settings = {"objective": objective, "constants": constants, "train_reader": True, "auto_batch": True}
    settings["reader"] = tiny_reader(CONTEXT.get(objective, "independent"))
    if (objective, constants) == ("emdr2", Constants.ATLAS):
        with pytest.raises(ValueError, match=r"auto_batch: .* set auto_batch=False, or constants=plain"):
            toy_module(tmp_path, **settings)
        return
    module = toy_module(tmp_path, **settings)
    module.index = build_index(module.retriever, module.knowledge_base)
    questions = toy_questions()[:4]
    answers = [f"{q.answers[0]}{' on the sea' * (i % 2 * 3)}" for i, q in enumerate(questions)]
    batch = Batch(questions, module.retrieve(questions, 5), answers)
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    found = []
    for size in (4, 3, 1):
        parts = PartsOfBatch()
        parts.num_questions = size
        losses = parts.losses(module._losses, batch, weights)
        gradients = torch.autograd.grad(torch.stack(list(losses.values())).sum(), weights, allow_unused=True)
        flat = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])
        found.append((torch.stack([loss.detach() for loss in losses.values()]), flat))
    for losses, gradients in found[1:]:
        torch.testing.assert_close(losses, found[0][0])
        torch.testing.assert_close(gradients, found[0][1], rtol=1e-3, atol=1e-5)


def test_a_single_question_that_does_not_fit_is_an_error(tmp_path):
    with pytest.raises(torch.OutOfMemoryError):
        train(tmp_path, fits=0)


def test_what_fits_is_in_the_checkpoint(tmp_path):
    module, again = (toy_module(tmp_path, auto_batch=True) for _ in range(2))
    module.parts.num_questions = 3
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    again.on_load_checkpoint(checkpoint)
    assert again.parts.num_questions == 3


@pytest.mark.parametrize("name", ["in_batch", "shard_reader"])
def test_batches_that_cannot_be_computed_in_parts(tmp_path, name):
    with pytest.raises(ValueError, match="auto_batch: a batch cannot be computed in parts"):
        toy_module(tmp_path, auto_batch=True, **{name: True})


def test_a_trainer_that_scales_the_loss_is_refused(tmp_path):
    """16-mixed, whose plugin has a scaler; Lightning has none on a CPU."""
    index = RefreshIndex("-1", tmp_path / "index", show_progress=False)
    trainer = toy_trainer(tmp_path, [index])
    trainer.strategy.precision_plugin.scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(ValueError, match=r"auto_batch: .* precision='bf16-mixed' or '32-true'"):
        trainer.fit(toy_module(tmp_path, auto_batch=True), toy_datamodule())
