"""Answer-row attention against the eager attention that every model family computes by itself."""

import contextlib
import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C import _len_torch_function_stack
from torch.overrides import TorchFunctionMode
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.models.falcon import modeling_falcon

from lightning_modules.answer_attention import AnswerAttention
from lightning_modules.attention_heads import AttentionHeads

NUM_LAYERS, VOCABULARY = 3, 50


def falcon(**kwargs) -> PreTrainedModel:
    config = FalconConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=NUM_LAYERS, num_attention_heads=4, **kwargs
    )
    return build(FalconForCausalLM, config)


def build(model_class, config) -> PreTrainedModel:
    torch.manual_seed(0)
    model = model_class._from_config(config, attn_implementation="sdpa").eval()
    for parameter in model.parameters():  # the initial weights are so small that attention is uniform
        parameter.data.normal_(std=0.3)
    return model


FAMILIES = {
    "falcon_alibi": lambda: falcon(alibi=True, multi_query=False, bias=True, parallel_attn=False),
    "falcon_rotary_multi_query": lambda: falcon(alibi=False, multi_query=True),
    "falcon_grouped": lambda: falcon(alibi=False, new_decoder_architecture=True, num_kv_heads=2),
    "llama_grouped": lambda: build(
        LlamaForCausalLM,
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=NUM_LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
        ),
    ),
    "qwen2": lambda: build(
        Qwen2ForCausalLM,
        Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=NUM_LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
        ),
    ),
    "gpt_neox": lambda: build(
        GPTNeoXForCausalLM,
        GPTNeoXConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=NUM_LAYERS,
            num_attention_heads=4,
        ),
    ),
}


@pytest.fixture(params=sorted(FAMILIES))
def model(request) -> PreTrainedModel:
    return FAMILIES[request.param]()


def value_vectors(model: PreTrainedModel, layer: int, hidden: Tensor) -> Tensor:
    """[heads, tokens, dim]: the value vectors of a layer's input, by the family's own projections."""
    config = model.config
    heads, dim = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    if model.config.model_type in ("llama", "qwen2"):
        block = model.model.layers[layer]
        values = block.self_attn.v_proj(block.input_layernorm(hidden)).unflatten(-1, (-1, dim))
        return values.repeat_interleave(heads // values.shape[1], dim=1).transpose(0, 1)
    if model.config.model_type == "gpt_neox":
        block = model.gpt_neox.layers[layer]
        fused = block.attention.query_key_value(block.input_layernorm(hidden))
        return fused.unflatten(-1, (heads, 3 * dim))[..., 2 * dim :].transpose(0, 1)
    block = model.transformer.h[layer]
    norm = block.ln_attn if config.new_decoder_architecture else block.input_layernorm
    fused = block.self_attention.query_key_value(norm(hidden)[None])
    _, _, values = block.self_attention._split_heads(fused)
    values = values[0].transpose(0, 1)
    return values.expand(heads, -1, -1)


def eager_twin(model: PreTrainedModel) -> PreTrainedModel:
    twin = type(model)._from_config(copy.deepcopy(model.config), attn_implementation="eager").eval()
    twin.load_state_dict(model.state_dict())
    return twin


@contextlib.contextmanager
def alibi_added_once(model: PreTrainedModel, ids: Tensor):
    """The eager Falcon of transformers 5.23 and 5.24 adds ALiBi twice (in mask and logits); SDPA once.

    Halving it makes the eager pass the reference again; `slow_head_scores` checks that its logits agree.
    """
    original = modeling_falcon.build_alibi_tensor
    adds_twice = getattr(model.config, "alibi", False) and not torch.allclose(
        eager_twin(model)(ids).logits, model(ids).logits, rtol=1e-3, atol=1e-3
    )
    if adds_twice:
        modeling_falcon.build_alibi_tensor = lambda *args, **kwargs: original(*args, **kwargs) / 2
    try:
        yield
    finally:
        modeling_falcon.build_alibi_tensor = original


@torch.no_grad()
def slow_head_scores(model: PreTrainedModel, ids: list[int], rows: list[int]) -> Tensor:
    """Mean over rows of alpha * |v|, from materialised eager attention. [layers, heads, tokens]"""
    eager = eager_twin(model)
    with alibi_added_once(model, torch.tensor([ids])):
        output = eager(torch.tensor([ids]), output_attentions=True, output_hidden_states=True)
    torch.testing.assert_close(output.logits, model(torch.tensor([ids])).logits, rtol=1e-4, atol=1e-4)
    scores = torch.zeros(NUM_LAYERS, model.config.num_attention_heads, len(ids))
    for layer in range(NUM_LAYERS):
        norms = value_vectors(eager, layer, output.hidden_states[layer][0]).norm(dim=-1)
        for head in range(norms.shape[0]):
            for row in rows:
                scores[layer, head] += output.attentions[layer][0, head, row] * norms[head] / len(rows)
    return scores


def slow_token_scores(model: PreTrainedModel, ids: list[int], rows: list[int]) -> Tensor:
    """Their mean over layers and heads. [tokens]"""
    return slow_head_scores(model, ids, rows).mean(dim=(0, 1))


@torch.no_grad()
def watched(model, ids: Tensor, mask: Tensor, rows: Tensor, **settings) -> AnswerAttention:
    with AnswerAttention(rows, NUM_LAYERS, **settings) as attention:
        model(ids, attention_mask=mask.long(), position_ids=(mask.long().cumsum(1) - 1).clamp(min=0))
    return attention


def captured(model, ids: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
    return watched(model, ids, mask, rows).token_scores()


def test_equals_eager_attention(model):
    ids = torch.randint(VOCABULARY, (1, 17), generator=torch.Generator().manual_seed(1))
    rows = torch.zeros(1, 17, dtype=torch.bool)
    rows[0, [11, 12, 15]] = True
    scores = captured(model, ids, torch.ones_like(rows), rows)
    expected = slow_token_scores(model, ids[0].tolist(), [11, 12, 15])
    torch.testing.assert_close(scores[0], expected, rtol=1e-4, atol=1e-7)
    assert scores.std() > 1e-3, "uniform attention would hide a mistake"


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batches_equal_one_by_one(model, side):
    generator = torch.Generator().manual_seed(2)
    lengths, row_lists = [9, 14, 12], [[6, 7], [13], [2, 5, 9]]
    width = max(lengths)
    ids = torch.randint(VOCABULARY, (3, width), generator=generator)
    mask = torch.zeros(3, width, dtype=torch.bool)
    rows = torch.zeros(3, width, dtype=torch.bool)
    starts = [width - n if side == "left" else 0 for n in lengths]
    for i, (n, start, positions) in enumerate(zip(lengths, starts, row_lists, strict=True)):
        mask[i, start : start + n] = True
        rows[i, [start + p for p in positions]] = True
    batched = captured(model, ids, mask, rows)
    for i, (n, start, positions) in enumerate(zip(lengths, starts, row_lists, strict=True)):
        expected = slow_token_scores(model, ids[i, start : start + n].tolist(), positions)
        torch.testing.assert_close(batched[i, start : start + n], expected, rtol=1e-4, atol=1e-7)
        assert batched[i, ~mask[i]].abs().max() == 0 if n < width else True


def test_scores_by_head_equal_eager_attention(model):
    """Two left-padded prompts with different numbers of rows."""
    ids = torch.randint(VOCABULARY, (2, 15), generator=torch.Generator().manual_seed(4))
    mask, rows = torch.ones(2, 15, dtype=torch.bool), torch.zeros(2, 15, dtype=torch.bool)
    mask[1, :4] = False
    rows[0, [9, 10, 13]], rows[1, 12] = True, True
    attention = watched(model, ids, mask, rows, by_head=True)
    scores = attention.head_scores()
    torch.testing.assert_close(scores.mean(dim=(1, 2)), attention.token_scores())
    torch.testing.assert_close(
        scores[0], slow_head_scores(model, ids[0].tolist(), [9, 10, 13]), rtol=1e-4, atol=1e-6
    )
    alone = slow_head_scores(model, ids[1, 4:].tolist(), [8])
    torch.testing.assert_close(scores[1, ..., 4:], alone, rtol=1e-4, atol=1e-6)
    assert not scores[1, ..., :4].any()
    assert not scores.requires_grad
    spread = scores[0].flatten(0, 1).std(dim=0).max()
    assert spread > 1e-2, "heads that agree would hide a mistake"


@pytest.mark.parametrize("text", ["1.2", "0.*,2.1-3", "0-2.*"])
def test_chosen_heads_alone_count(model, text):
    ids = torch.randint(VOCABULARY, (1, 15), generator=torch.Generator().manual_seed(5))
    rows = torch.zeros(1, 15, dtype=torch.bool)
    rows[0, [9, 13]] = True
    chosen = AttentionHeads.parse(text).mask(NUM_LAYERS, model.config.num_attention_heads)
    attention = watched(model, ids, torch.ones_like(rows), rows, heads=chosen)
    expected = slow_head_scores(model, ids[0].tolist(), [9, 13])[chosen].mean(dim=0)
    torch.testing.assert_close(attention.token_scores()[0], expected, rtol=1e-4, atol=1e-6)
    by_row = [slow_head_scores(model, ids[0].tolist(), [row])[chosen].mean(dim=0) for row in (9, 13)]
    torch.testing.assert_close(attention.row_scores()[0], torch.stack(by_row), rtol=1e-4, atol=1e-6)
    both = watched(model, ids, torch.ones_like(rows), rows, heads=chosen, by_head=True)
    assert both.head_scores().shape[1:3] == chosen.shape, "those not chosen too"


def test_scores_by_head_are_not_kept_unasked():
    model = FAMILIES["llama_grouped"]()
    rows = torch.zeros(1, 6, dtype=torch.bool)
    rows[0, 4] = True
    attention = watched(model, torch.arange(6)[None], torch.ones_like(rows), rows)
    with pytest.raises(AssertionError, match="by_head=True"):
        attention.head_scores()


def test_question_rows_by_head_equal_eager_attention(model):
    """Two left-padded prompts whose questions come last, before answers of different lengths."""
    ids = torch.randint(VOCABULARY, (2, 15), generator=torch.Generator().manual_seed(6))
    mask, rows, question = (torch.zeros(2, 15, dtype=torch.bool) for _ in range(3))
    mask[0], mask[1, 4:] = True, True
    rows[0, [11, 12, 13]], rows[1, 13] = True, True
    question[0, 8:11], question[1, 9:13] = True, True
    settings = {"question_mask": question, "by_head": True}
    attention = watched(model, ids, mask, rows, **settings)
    of_question, of_answer = attention.question_head_scores(), attention.head_scores()
    expected = slow_head_scores(model, ids[0].tolist(), [8, 9, 10])
    torch.testing.assert_close(of_question[0], expected, rtol=1e-4, atol=1e-6)
    expected = slow_head_scores(model, ids[1, 4:].tolist(), [5, 6, 7, 8])
    torch.testing.assert_close(of_question[1, ..., 4:], expected, rtol=1e-4, atol=1e-6)
    assert not of_question[1, ..., :4].any()
    torch.testing.assert_close(of_question.mean(dim=(1, 2)), attention.question_scores())
    torch.testing.assert_close(of_answer, watched(model, ids, mask, rows, by_head=True).head_scores())
    assert not torch.allclose(of_question, of_answer, rtol=0.1)


class CountCalls(TorchFunctionMode):
    """Counts the attention calls that are carried out."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += func is F.scaled_dot_product_attention
        return func(*args, **kwargs or {})


@torch.no_grad()
@pytest.mark.parametrize(("text", "num_whole"), [("0.*", 0), ("0.1,1.2-3", 1), ("0-2.*", 2), (None, 2)])
@pytest.mark.parametrize("with_question", [False, True])
def test_a_pass_ends_at_the_last_chosen_head_with_the_same_scores(model, text, num_whole, with_question):
    ids = torch.randint(VOCABULARY, (2, 15), generator=torch.Generator().manual_seed(7))
    mask, rows, question = (torch.full((2, 15), fill_value) for fill_value in (True, False, False))
    mask[1, :4] = False
    rows[0, [9, 10]], rows[1, 12] = True, True
    question[0, 5:9], question[1, 7:10] = True, True
    asked = {"question_mask": question} if with_question else {}
    heads = AttentionHeads.parse(text).mask(NUM_LAYERS, 4) if text else None
    whole = watched(model, ids, mask, rows, heads=heads, **asked)
    with CountCalls() as calls:
        ended = watched(model, ids, mask, rows, heads=heads, ends_pass=True, **asked)
    assert calls.count == num_whole
    assert torch.equal(ended.token_scores(), whole.token_scores())
    assert torch.equal(ended.row_scores(), whole.row_scores())
    if with_question:
        assert torch.equal(ended.question_scores(), whole.question_scores())
        assert not torch.equal(ended.question_scores(), ended.token_scores())


@torch.no_grad()
def test_a_pass_that_ended_leaves_nothing_behind():
    model = FAMILIES["llama_grouped"]()
    ids, rows = torch.arange(8)[None], torch.zeros(1, 8, dtype=torch.bool)
    rows[0, 6] = True
    plain = model(ids).logits
    layers = [layer.self_attn for layer in model.model.layers]
    heads = AttentionHeads.parse("1.0").mask(NUM_LAYERS, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        whole = watched(model, ids, torch.ones_like(rows), rows, heads=heads, within=layers)
        ended = watched(model, ids, torch.ones_like(rows), rows, heads=heads, within=layers, ends_pass=True)
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(ended.token_scores(), whole.token_scores())
    assert not torch.is_autocast_enabled("cpu")
    assert _len_torch_function_stack() == 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model(ids).logits, plain)


def test_a_pass_that_ended_is_no_cover_for_mistakes():
    rows = torch.tensor([[False, True]])
    with pytest.raises(KeyError), AnswerAttention(rows, NUM_LAYERS, ends_pass=True):
        raise KeyError
    with AnswerAttention(rows, NUM_LAYERS, ends_pass=True) as attention:
        pass
    with pytest.raises(ValueError, match="saw 0 attention calls where the reader has 3 layers"):
        attention.token_scores()


def test_leaves_the_forward_pass_and_its_gradient_alone(model):
    ids = torch.randint(VOCABULARY, (2, 8), generator=torch.Generator().manual_seed(3))
    rows = torch.zeros(2, 8, dtype=torch.bool)
    rows[:, 5] = True
    plain = model(ids).logits
    with AnswerAttention(rows, NUM_LAYERS) as attention:
        observed = model(ids).logits
    assert torch.equal(plain, observed)
    assert observed.requires_grad
    assert not attention.token_scores().requires_grad


def test_half_precision_scores_are_float32():
    model = FAMILIES["llama_grouped"]().to(torch.bfloat16)
    ids = torch.arange(8)[None]
    rows = torch.zeros(1, 8, dtype=torch.bool)
    rows[0, 6] = True
    assert captured(model, ids, torch.ones_like(rows), rows).dtype == torch.float32


def test_a_reader_that_bypasses_sdpa_is_refused(model):
    rows = torch.zeros(1, 6, dtype=torch.bool)
    rows[0, 4] = True
    with pytest.raises(ValueError, match="attn_implementation='sdpa'"):
        captured(eager_twin(model), torch.arange(6)[None], torch.ones_like(rows), rows)


def test_a_prompt_without_answer_is_refused():
    rows = torch.tensor([[False, True], [False, False]])
    with pytest.raises(ValueError, match="no answer token"):
        AnswerAttention(rows, NUM_LAYERS)
