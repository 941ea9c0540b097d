"""A fingerprint is of the model, not of how it is stored, and changes with any weight."""

import pytest
import torch

from lightning_modules.fingerprint import model_fingerprint
from lightning_modules.loading import load_causal_lm
from tests.tiny_models import tiny_falcon_rw, tiny_llama, tiny_reader, tiny_t5


def test_the_same_model_however_it_is_stored(tmp_path):
    reader = tiny_reader()
    found = model_fingerprint(reader.model)
    assert len(bytes.fromhex(found)) == 32
    reader.save(tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        assert model_fingerprint(load_causal_lm(tmp_path, dtype)[0]) == found
    assert model_fingerprint(tiny_llama(len(reader.tokenizer)).train()) == found


def test_other_models_have_others():
    models = [tiny_llama(300), tiny_llama(300, seed=1), tiny_llama(301), tiny_falcon_rw(300), tiny_t5(300)]
    assert len({model_fingerprint(model) for model in models}) == len(models)


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"])
def test_training_changes_it(name):
    model = tiny_llama(300)
    before = model_fingerprint(model)
    model.get_parameter(name).data.mul_(1.02)
    assert model_fingerprint(model) != before
