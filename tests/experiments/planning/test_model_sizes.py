"""Sizes of models against the models themselves."""

import json

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    FalconConfig,
    FalconForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from experiments.planning.model_sizes import PUBLISHED, ModelSize, reader_size, retriever_size
from lightning_modules.loading import load_encoder
from tests.tiny_models import save_tiny_models


def of_bert() -> BertModel:
    return BertModel(BertConfig(), add_pooling_layer=False)


def of_falcon() -> FalconForCausalLM:
    shape = {"hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32, "vocab_size": 50304}
    kind = {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True}
    return FalconForCausalLM(FalconConfig(**shape, **kind))


def of_t5() -> T5ForConditionalGeneration:
    shape = {"d_model": 1024, "d_kv": 64, "d_ff": 2816, "num_layers": 24, "num_heads": 16}
    model = T5ForConditionalGeneration(T5Config(**shape, vocab_size=32128, feed_forward_proj="gated-gelu"))
    # as its files, which hold an output matrix of its own
    model.lm_head.weight = torch.nn.Parameter(torch.empty(32128, 1024, device="meta"))
    return model


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("facebook/contriever", of_bert),
        ("tiiuae/falcon-rw-1b", of_falcon),
        ("google/t5-large-lm-adapt", of_t5),
    ],
)
def test_the_papers_models_have_as_many_weights_as_the_table_says(name, make):
    with torch.device("meta"):
        weights = dict(make().named_parameters())
    size = PUBLISHED[name]
    in_decoder = sum(w.numel() for key, w in weights.items() if key.startswith("decoder.block."))
    assert size.parameters == sum(w.numel() for w in weights.values())
    assert size.in_decoder == in_decoder


@pytest.mark.parametrize("family", ["llama", "falcon_rw", "t5"])
def test_sizes_are_read_from_the_files_headers(family, tmp_path):
    reader, retriever = save_tiny_models(tmp_path, family)
    size = reader_size(str(reader))
    assert size is not None
    assert (size.dim, size.num_layers) == (32, 2)
    assert (size.in_decoder > 0) == (family == "t5")
    whole = retriever_size(str(retriever))
    model, _ = load_encoder(retriever)
    assert whole is not None
    assert whole.parameters == sum(weight.numel() for weight in model.parameters())
    shorter, _ = load_encoder(retriever, num_layers=1)
    cut = retriever_size(str(retriever), num_layers=1)
    assert cut is not None
    assert (cut.parameters, cut.num_layers) == (sum(weight.numel() for weight in shorter.parameters()), 1)


def test_layers_that_are_left_out_of_a_model_of_the_table():
    cut = retriever_size("facebook/contriever", num_layers=3)
    assert cut == ModelSize(85_054_464 // 4, 23_837_184, 3, 768, 30_522)


def test_what_cannot_be_read_has_no_size(tmp_path):
    assert reader_size("nobody/has-this-model") is None
    assert reader_size(str(tmp_path / "nowhere")) is None
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    assert reader_size(str(tmp_path)) is None, "no weights"
