"""What eval mode changes, and whether it changes anything: really run twice in train mode."""

import pytest
import torch
from torch import nn
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    T5Config,
)

from lightning_modules.eval_mode import eval_mode, has_dropout
from tests.tiny_models import tiny_llama, tiny_t5


def mixed_model():
    """One part in eval mode inside a model in train mode."""
    model = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))).train()
    model[1].eval()
    model[1][1].train()
    return model


def modes(model):
    return [module.training for module in model.modules()]


def test_every_part_is_back_in_its_own_mode():
    model = mixed_model()
    before = modes(model)
    assert set(before) == {True, False}
    with eval_mode(model):
        assert not any(modes(model))
    assert modes(model) == before


def test_also_after_an_error():
    model = mixed_model()
    before = modes(model)
    with pytest.raises(KeyError), eval_mode(model):
        raise KeyError
    assert modes(model) == before


def test_may_be_nested():
    model = mixed_model()
    before = modes(model)
    with eval_mode(model), eval_mode(model):
        assert not any(modes(model))
    assert modes(model) == before


# ------------------------------------------------------------------------------------------- has_dropout
SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
FAMILIES = {
    "falcon": (FalconForCausalLM, FalconConfig, {"alibi": True}),
    "gpt2": (GPT2LMHeadModel, GPT2Config, {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}),
    "gpt_neox": (GPTNeoXForCausalLM, GPTNeoXConfig, {"intermediate_size": 24}),
    "llama": (LlamaForCausalLM, LlamaConfig, {"intermediate_size": 24}),
    "mixtral": (
        MixtralForCausalLM,
        MixtralConfig,
        {"intermediate_size": 24, "num_local_experts": 2, "num_key_value_heads": 2},
    ),
    "opt": (OPTForCausalLM, OPTConfig, {"dropout": 0.0, "ffn_dim": 24, "word_embed_proj_dim": 16}),
}
RATES = [
    *[("falcon", rate) for rate in ("attention_dropout", "hidden_dropout")],
    *[("gpt2", rate) for rate in ("attn_pdrop", "resid_pdrop", "embd_pdrop")],
    *[("gpt_neox", rate) for rate in ("attention_dropout", "hidden_dropout")],
    ("llama", "attention_dropout"),
    ("mixtral", "router_jitter_noise"),
    *[("opt", rate) for rate in ("dropout", "attention_dropout", "layerdrop")],
]


def random_model(family, **rates):
    model_class, config_class, settings = FAMILIES[family]
    torch.manual_seed(0)
    config = config_class(**{**SHAPE, **settings, **rates})
    model = model_class._from_config(config, attn_implementation="sdpa")
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    return model.train()


@torch.no_grad()
def passes_differ(model):
    ids = torch.arange(3, 27).view(2, 12)
    first = model(input_ids=ids, use_cache=False).logits
    return any(not torch.equal(first, model(input_ids=ids, use_cache=False).logits) for _ in range(4))


@pytest.mark.parametrize("family", FAMILIES)
def test_without_rates_two_passes_are_equal(family):
    model = random_model(family)
    assert not passes_differ(model)
    assert not has_dropout(model)


@pytest.mark.parametrize(("family", "rate"), RATES)
def test_a_rate_of_any_name_is_found(family, rate):
    model = random_model(family, **{rate: 0.5})
    assert passes_differ(model), "the model uses the rate"
    assert has_dropout(model)
    with eval_mode(model):
        assert not passes_differ(model)


def test_a_rate_is_found_wherever_it_is_kept():
    """In the module alone, in the configuration alone, and in one nested in it."""
    model = tiny_llama(40)
    assert not has_dropout(model)
    model.model.layers[1].self_attn.attention_dropout = 0.1
    assert has_dropout(model)
    model.model.layers[1].self_attn.attention_dropout = 0.0
    for nested in ({"attn_pdrop": 0.1}, T5Config(dropout_rate=0.1), {"deeper": {"p_dropped": 1}}):
        model.config.attn_config = nested
        assert has_dropout(model), nested
    model.config.attn_config = {"attn_pdrop": 0, "dropped": True, "drop_none": None, "rate": 0.1}
    assert not has_dropout(model)


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_the_dropout_of_t5_is_found(rate):
    assert has_dropout(tiny_t5(40, dropout=rate)) is bool(rate)
