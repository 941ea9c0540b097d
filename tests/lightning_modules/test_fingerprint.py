"""A fingerprint is of the model, not of how it is stored, and changes with any weight."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, ByT5Tokenizer

from lightning_modules.fingerprint import config_of_outputs, model_fingerprint, tokenizer_fingerprint
from lightning_modules.loading import load_causal_lm, load_encoder
from tests.tiny_models import (
    save_tiny_models,
    tiny_falcon_rw,
    tiny_llama,
    tiny_reader,
    tiny_t5,
    tiny_tokenizer,
)


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


@pytest.mark.parametrize("family", ["llama", "falcon_rw"])
def test_a_configuration_is_the_same_for_every_copy(family, tmp_path):
    reader = tiny_reader("independent", family)
    found = config_of_outputs(reader.model.config)
    for name, dtype in (("first", torch.float32), ("second", torch.bfloat16)):
        reader.save(tmp_path / name)
        copied, _ = load_causal_lm(tmp_path / name, dtype)
        assert config_of_outputs(copied.config) == found
        assert config_of_outputs(copied.train().config) == found
    assert json.loads(json.dumps(found)) == found


def test_dropout_and_where_it_is_from_are_no_part_of_a_configuration(tmp_path):
    _, name = save_tiny_models(tmp_path)
    first, other = (load_encoder(name, dropout=dropout)[0] for dropout in (None, 0.5))
    assert other.config.hidden_dropout_prob == 0.5
    other.config._name_or_path = "elsewhere"
    assert config_of_outputs(other.config) == config_of_outputs(first.config)
    assert config_of_outputs(load_encoder(name, num_layers=1)[0].config) != config_of_outputs(first.config)


ROPE = {"rope_type": "default", "rope_theta": 1e4}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {"rope_parameters": {**ROPE, "rope_theta": 5e5}}),
        ("llama", {"rope_parameters": {**ROPE, "rope_type": "linear", "factor": 4.0}}),
        ("mistral", {"sliding_window": 9}),
        ("gemma2", {"attn_logit_softcapping": 9.0}),
        ("gemma3", {"text_config": {"sliding_window": 9}}),
    ],
)
def test_what_changes_attention_is_part_of_a_configuration(kind, changes):
    """Settings that no weight tells of."""
    plain, again, changed = (AutoConfig.for_model(kind, **given) for given in ({}, {}, changes))
    assert config_of_outputs(again) == config_of_outputs(plain)
    assert config_of_outputs(changed) != config_of_outputs(plain)


def test_a_tokenizer_is_the_same_for_every_copy_and_after_every_call(tmp_path):
    tokenizer = tiny_tokenizer()
    found = tokenizer_fingerprint(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_fingerprint(AutoTokenizer.from_pretrained(tmp_path)) == found
    tokenizer(["some text", "more of it"], padding=True, truncation=True, max_length=3)
    assert tokenizer_fingerprint(tokenizer) == found
    tokenizer.add_tokens(["capital of"])
    assert tokenizer_fingerprint(tokenizer) != found


def test_a_tokenizer_in_python_is_its_vocabulary():
    found = tokenizer_fingerprint(ByT5Tokenizer())
    assert tokenizer_fingerprint(ByT5Tokenizer()) == found
    assert tokenizer_fingerprint(ByT5Tokenizer(extra_ids=3)) != found
