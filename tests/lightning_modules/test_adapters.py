"""LoRA leaves the weights alone, and what is saved is the plain model with what was learnt."""

import importlib.util

import pytest
import torch
from safetensors.torch import load_file

from datamodules.batches import Batch
from lightning_modules.adapters import INSTALL_COMMAND
from lightning_modules.loading import ModelError
from lightning_modules.readers.base import Reader
from lightning_modules.readers.families import load_reader
from tests.tiny_models import tiny_fusion_reader, tiny_reader, toy_passages, toy_questions

READERS = {
    "llama": lambda: tiny_reader(),
    "falcon": lambda: tiny_reader(family="falcon_rw"),
    "t5": lambda: tiny_fusion_reader(),
    "tied t5": lambda: tiny_fusion_reader(v1_1=False),
}


def toy_batch() -> Batch:
    questions, passages = toy_questions()[:2], toy_passages()
    return Batch(questions, [passages[:3], passages[1:4]], [question.answers[0] for question in questions])


def log_probs(reader: Reader) -> torch.Tensor:
    with torch.no_grad():
        return reader.eval().read_answer(toy_batch()).label_log_probs


def train(reader: Reader, num_steps: int = 3) -> float:
    """The loss before the last step."""
    optimizer = torch.optim.AdamW([p for p in reader.parameters() if p.requires_grad], lr=0.01)
    batch = toy_batch()
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss = reader.train().answer_loss(reader.read_answer(batch), torch.zeros(2, 3).log_softmax(-1))
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_saved_is_the_plain_model_with_what_was_learnt(tmp_path, kind, dtype):
    reader = READERS[kind]()
    reader.model.to(dtype)
    plain = {name: weight.clone() for name, weight in reader.model.state_dict().items()}
    before = log_probs(reader)
    reader.add_adapters(rank=2, alpha=3.0)
    assert torch.equal(log_probs(reader), before), "nothing was learnt yet"
    learning = {name: weight for name, weight in reader.named_parameters() if weight.requires_grad}
    assert all(".lora_" in name for name in learning)
    assert {weight.dtype for weight in learning.values()} == {torch.float32}
    assert not any("lm_head" in name for name in learning)
    train(reader)
    after = log_probs(reader)
    assert not torch.allclose(after, before, atol=1e-2)
    for name, weight in reader.model.state_dict().items():
        if ".lora_" not in name:
            assert torch.equal(weight, plain[name.replace(".base_layer", "")]), name

    reader.save(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert not [name for name in saved if "lora" in name or "base_layer" in name]
    assert not list(tmp_path.glob("adapter*"))
    loaded = load_reader(tmp_path, dtype=torch.float32)
    changed = {
        name for name, weight in loaded.model.state_dict().items() if not torch.equal(weight, plain[name])
    }
    assert changed, "something was learnt"
    assert all(saved[name].dtype == torch.float32 for name in changed)
    tolerances = {"rtol": 0.1, "atol": 0.1} if dtype == torch.bfloat16 else {}  # of the passes
    torch.testing.assert_close(log_probs(loaded), after, **tolerances)
    torch.testing.assert_close(log_probs(reader), after)


def test_alpha_is_twice_the_rank_unless_given():
    losses = []
    for settings in ({"alpha": 4.0}, {}, {"alpha": 1.0}):
        torch.manual_seed(0)
        reader = tiny_reader()
        torch.manual_seed(1)
        reader.add_adapters(rank=2, **settings)
        losses.append(train(reader))
    assert losses[0] == losses[1] != losses[2]


def test_without_peft_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="lora_rank: LoRA needs the package peft") as error:
        tiny_reader().add_adapters(rank=2)
    assert INSTALL_COMMAND in str(error.value)


@pytest.mark.parametrize("kind", ["llama", "falcon", "t5"])
@pytest.mark.parametrize("rank", [None, 2])
def test_recomputed_activations_give_the_same_gradients(kind, rank):
    gradients, calls = [], []
    for recomputes in (False, True):
        reader = READERS[kind]()
        if rank is not None:
            torch.manual_seed(0)
            reader.add_adapters(rank)
            train(reader)  # a matrix of zeros gives the other one no gradient
        if recomputes:
            reader.recompute_activations()
        weight = next(weight for weight in reader.parameters() if weight.requires_grad)
        reader.zero_grad()
        counted = count_of_attention(reader)
        output = reader.train().read_answer(toy_batch())
        reader.answer_loss(output, torch.zeros(2, 3).log_softmax(-1)).backward()
        gradients.append((output.token_scores, weight.grad))
        calls.append(counted[0])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert calls[1] == 2 * calls[0], "each layer was passed again"
    assert calls[1] > 0


def count_of_attention(reader: Reader) -> list[int]:
    """How often a part of the first layer runs."""
    counted = [0]

    def count(*args) -> None:
        counted[0] += 1

    norm = next(module for module in reader.modules() if type(module).__name__.endswith("Norm"))
    norm.register_forward_pre_hook(count)
    return counted
