"""The decoder-only reader against plain forward passes over one unpadded prompt at a time."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from transformers import FalconConfig, GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from datamodules.batches import Batch, TokenScope
from datamodules.prompts import Context, PromptBuilder
from lightning_modules.answer_attention import AnswerAttention
from lightning_modules.attention_heads import AttentionHeads
from lightning_modules.metrics.head_search import head_passage_scores
from lightning_modules.objectives import ADist
from lightning_modules.readers.decoder_only import DecoderOnlyReader
from lightning_modules.readers.outputs import AnswerOutput, AttentionOutput, HeadOutput
from lightning_modules.readers.prefixes import NoPrefix
from lightning_modules.scores import PassageTokens
from tests.tiny_models import (
    tiny_falcon_rw,
    tiny_llama,
    tiny_reader,
    tiny_tokenizer,
    toy_passages,
    toy_questions,
)

K = 3
QUESTIONS = toy_questions()[:3]
PASSAGES = [[toy_passages()[i] for i in rows] for rows in ((0, 13, 5), (1, 2, 15), (20, 2, 7))]
ANSWERS = ["Paris", "Tokyo or Kyoto", "Lima"]
BATCH = Batch(QUESTIONS, PASSAGES, ANSWERS)
LOG_P_RETR = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3]]).log()


@pytest.fixture(params=["llama", "falcon_rw"])
def family(request):
    return request.param


@pytest.fixture(params=["concatenated", "independent"])
def reader(request, family):
    return tiny_reader(request.param, family)


def single_prompts(reader, answers):
    """[(question, PromptBatch of one unpadded prompt)] in the reader's order of prompts."""
    singles = []
    for b, (question, passages) in enumerate(zip(QUESTIONS, PASSAGES, strict=True)):
        groups = [[p] for p in passages] if reader.prompts.context is Context.INDEPENDENT else [passages]
        for group in groups:
            answer = () if answers is None else [answers[b]]
            singles.append((b, reader.prompts.build(Batch([question], [group], answer))))
    return singles


def plain_log_probs(reader, prompt):
    """Log-probabilities of a prompt's answer tokens and of the end of sequence, from a plain forward pass."""
    ids = prompt.input_ids[0]
    log_probs = reader.model(ids[None]).logits[0].double().log_softmax(dim=-1)
    first = int(prompt.answer_mask[0].nonzero()[0])
    return torch.stack([log_probs[t - 1, ids[t]] for t in range(first, len(ids))])


# ---------------------------------------------------------------------------------------------- reading
@torch.no_grad()
def test_label_log_probs_equal_plain_passes_one_by_one(reader):
    output = reader.read_answer(BATCH)
    singles = single_prompts(reader, ANSWERS)
    assert len(output.label_log_probs) == len(singles)
    for row, (_, prompt) in enumerate(singles):
        expected = plain_log_probs(reader, prompt).float()
        real = output.label_mask[row]
        torch.testing.assert_close(output.label_log_probs[row][real], expected, rtol=1e-4, atol=1e-5)
        assert (output.label_log_probs[row][~real] == 0).all()
    assert not output.label_mask.all(), "answers of one length would hide the padding"
    assert output.label_log_probs.std() > 0.1


@torch.no_grad()
def test_learned_positions_count_real_tokens_only():
    """Rotary positions and ALiBi see differences only; GPT-2 would notice positions of padding."""
    tokenizer = tiny_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=1
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel._from_config(config, attn_implementation="sdpa").eval()
    model.transformer.wpe.weight.data.normal_()
    reader = DecoderOnlyReader(model, PromptBuilder(tokenizer, context="independent"))
    output = reader.read_answer(BATCH)
    for row, (_, prompt) in enumerate(single_prompts(reader, ANSWERS)):
        expected = plain_log_probs(reader, prompt).float()
        found = output.label_log_probs[row][output.label_mask[row]]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_token_scores_do_not_depend_on_what_else_is_asked_for(reader):
    plain = reader.read(BATCH)
    labelled = reader.read_answer(BATCH)
    torch.testing.assert_close(plain.token_scores, labelled.token_scores)
    assert type(plain) is AttentionOutput
    assert type(labelled) is AnswerOutput
    assert plain.token_scores[~plain.prompts.attention_mask].abs().max() == 0
    for row, (_, prompt) in enumerate(single_prompts(reader, ANSWERS)):
        b = int(plain.prompts.question_of_prompt[row])
        shown = [[PASSAGES[b][row % K]]] if len(plain.token_scores) > K else [PASSAGES[b]]
        alone = reader.read(Batch([QUESTIONS[b]], shown, [ANSWERS[b]]))
        assert torch.equal(alone.prompts.input_ids, prompt.input_ids)
        real = plain.prompts.attention_mask[row]
        torch.testing.assert_close(plain.token_scores[row][real], alone.token_scores[0], rtol=1e-4, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("how", ["read", "read_answer", "read_heads"])
def test_contextual_embeddings_are_the_last_hidden_states(reader, how):
    output = getattr(reader, how)(BATCH)
    for row, (_, prompt) in enumerate(single_prompts(reader, ANSWERS)):
        hidden = reader.model(prompt.input_ids, output_hidden_states=True).hidden_states[-1][0]
        real = output.prompts.attention_mask[row]
        torch.testing.assert_close(output.hidden[row][real], hidden, rtol=1e-3, atol=1e-4)


def test_input_embeddings_are_the_vocabulary():
    reader = tiny_reader()
    assert torch.equal(reader.embedding_matrix, reader.model.model.embed_tokens.weight)
    assert not reader.embedding_matrix.requires_grad


# ------------------------------------------------------------------------------------------------- loss
def test_answer_loss_of_concatenated_prompts_is_the_models_own(family):
    reader = tiny_reader("concatenated", family)
    output = reader.read_answer(BATCH)
    losses = []
    for _, prompt in single_prompts(reader, ANSWERS):
        labels = prompt.input_ids.clone()
        labels[:, : int(prompt.answer_mask[0].nonzero()[0])] = -100
        losses.append(reader.model(prompt.input_ids, labels=labels).loss)
    loss = reader.answer_loss(output, LOG_P_RETR)
    torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)
    assert torch.equal(loss, reader.answer_loss(output, LOG_P_RETR.flip(1))), "all passages are in one prompt"


@torch.no_grad()
def test_answer_loss_of_independent_prompts_is_the_marginal(family):
    reader = tiny_reader("independent", family)
    output = reader.read_answer(BATCH)
    of_question = [[], [], []]
    for b, prompt in single_prompts(reader, ANSWERS):
        of_question[b].append(plain_log_probs(reader, prompt).tolist())
    losses = []
    for b, by_passage in enumerate(of_question):
        negative = []
        for t in range(len(by_passage[0])):
            marginal = sum(math.exp(LOG_P_RETR[b, k].item()) * math.exp(by_passage[k][t]) for k in range(K))
            negative.append(-math.log(marginal))
        losses.append(sum(negative) / len(negative))
    loss = reader.answer_loss(output, LOG_P_RETR)
    assert loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert loss.item() != pytest.approx(reader.answer_loss(output, LOG_P_RETR.flip(1)).item(), rel=1e-4)


def test_gradient_flows_where_it_should(reader):
    log_p_retr = LOG_P_RETR.clone().requires_grad_()
    output = reader.read_answer(BATCH)
    reader.answer_loss(output, log_p_retr).backward()
    assert log_p_retr.grad is None
    assert not output.token_scores.requires_grad
    assert not output.hidden.requires_grad
    missing = [name for name, p in reader.named_parameters() if p.grad is None or not p.grad.any()]
    # a constant added to all keys changes no attention
    assert all("query_key_value.bias" in name or "k_proj.bias" in name for name in missing), missing


def test_a_frozen_reader_records_no_gradient(reader):
    reader.requires_grad_(False)
    output = reader.read_answer(BATCH)
    assert not output.label_log_probs.requires_grad
    assert not reader.answer_loss(output, LOG_P_RETR).requires_grad


@torch.no_grad()
@pytest.mark.parametrize("how", ["read", "read_answer"])
def test_chosen_heads_alone_count(reader, how):
    heads = AttentionHeads.parse("0.1-2,1.3")
    choosy = DecoderOnlyReader(reader.model, reader.prompts, heads)
    output = choosy.read_heads(BATCH)
    expected = output.head_scores[:, heads.mask(2, 4)].mean(dim=1)
    torch.testing.assert_close(output.token_scores, expected)
    torch.testing.assert_close(getattr(choosy, how)(BATCH).token_scores, expected)
    all_heads = getattr(reader, how)(BATCH)
    assert not isinstance(all_heads, HeadOutput)
    torch.testing.assert_close(output.head_scores.mean(dim=(1, 2)), all_heads.token_scores)
    assert not torch.allclose(all_heads.token_scores, output.token_scores, rtol=0.1)


@torch.no_grad()
@pytest.mark.parametrize("text", [None, "0.1-2", "0.1-2,1.3"])
def test_attention_alone_is_that_of_the_whole_pass(reader, text):
    """Also in mixed precision; only the hidden states are not there."""
    choosy = DecoderOnlyReader(reader.model, reader.prompts, AttentionHeads.parse(text) if text else None)
    for is_mixed in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_mixed):
            whole, alone = choosy.read(BATCH), choosy.read_attention(BATCH)
        assert torch.equal(alone.token_scores, whole.token_scores)
        assert torch.equal(alone.row_scores, whole.row_scores)
        assert torch.equal(alone.row_mask, whole.row_mask)
    assert torch.equal(whole.last_hidden, whole.hidden)
    assert alone.hidden is None
    with pytest.raises(AssertionError, match="ended before its last layer"):
        choosy.embed_answer(alone)


@torch.no_grad()
@pytest.mark.parametrize("text", [None, "0.1-2", "0.1-2,1.3"])
def test_attention_of_the_question_alone_is_that_of_the_whole_pass(family, text):
    """Of the pass that gives the likelihood too, which the vocabulary is looked at for."""
    reader = tiny_reader("independent", family)
    choosy = DecoderOnlyReader(reader.model, reader.prompts, AttentionHeads.parse(text) if text else None)
    for is_mixed in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_mixed):
            whole, alone = choosy.read_question(BATCH), choosy.read_question_attention(BATCH)
        for name in ("question_scores", "token_scores", "row_scores", "row_mask"):
            assert torch.equal(getattr(alone, name), getattr(whole, name)), name
    assert whole.hidden is not None
    assert alone.hidden is None
    assert not hasattr(alone, "label_log_probs")
    with pytest.raises(ValueError, match="context independent"):
        tiny_reader("concatenated", family).read_question_attention(BATCH)


@torch.no_grad()
def test_question_rows_by_head_are_those_of_the_question_alone(reader):
    """As if the question's tokens, in their last occurrence, were the answer's rows."""
    output = reader.read_question_heads(BATCH)
    prompts = output.prompts
    with AnswerAttention(prompts.question_mask, 2, by_head=True) as attention:
        reader.model(**NoPrefix(reader.model).inputs(prompts))
    torch.testing.assert_close(output.question_head_scores, attention.head_scores())
    torch.testing.assert_close(output.head_scores, reader.read_heads(BATCH).head_scores)
    assert not torch.allclose(output.head_scores, output.question_head_scores, rtol=0.1)
    last = [int(row.nonzero()[-1]) for row in prompts.question_mask]
    assert all(row[end + 1 :].any() for row, end in zip(prompts.answer_mask, last, strict=True))
    assert not any(row[end:].any() for row, end in zip(prompts.content_mask, last, strict=True))
    if reader.reads_alone:
        of_question = reader.read_signals(BATCH).question_scores
        torch.testing.assert_close(output.question_head_scores.mean(dim=(1, 2)), of_question)


def test_a_head_that_the_model_lacks_is_refused(reader):
    for text in ("2.*", "0.4"):
        with pytest.raises(ValueError, match=r"the reader has no .*; its layers are 0 to 1, .* each 0 to 3"):
            DecoderOnlyReader(reader.model, reader.prompts, AttentionHeads.parse(text))


@torch.no_grad()
def test_the_teacher_of_chosen_heads_is_what_a_search_scores(reader):
    """Their mean passage score, head by head, is what the reader then teaches from."""
    output = reader.read_heads(BATCH)
    by_head = head_passage_scores(output.head_scores, PassageTokens.of(output.prompts, TokenScope.PASSAGE))
    heads = AttentionHeads.parse("0.1-2,1.3")
    choosy = DecoderOnlyReader(reader.model, reader.prompts, heads)
    log_p_attn = ADist(attention_distribution="sum").log_p_target(choosy.read(BATCH), LOG_P_RETR)
    scores = by_head[:, heads.mask(2, 4)].mean(dim=1)
    torch.testing.assert_close(log_p_attn.exp(), scores / scores.sum(dim=1, keepdim=True))


# --------------------------------------------------------------------------------------------- generate
def texts_of(reader, ids):
    """What comes before the end of the line, as the generated text is documented."""
    return reader.prompts.tokenizer.decode(ids, skip_special_tokens=True).strip().split("\n")[0].strip()


def end_ids(reader):
    return [reader.prompts.tokenizer.eos_token_id, *reader.prompts.tokenizer("\n")["input_ids"]]


@torch.no_grad()
def test_generated_from_concatenated_prompts_is_greedy_one_by_one(family):
    reader = tiny_reader("concatenated", family)
    expected = []
    for _, prompt in single_prompts(reader, None):
        output = reader.model.generate(
            prompt.input_ids,
            attention_mask=torch.ones_like(prompt.input_ids),
            max_new_tokens=7,
            min_new_tokens=1,
            do_sample=False,
            eos_token_id=end_ids(reader),
            pad_token_id=0,
        )
        expected.append(texts_of(reader, output[0, prompt.input_ids.shape[1] :]))
    assert reader.generate(Batch(QUESTIONS, PASSAGES), LOG_P_RETR, max_new_tokens=7) == expected
    assert len(set(expected)) > 1


@torch.no_grad()
def slow_average_decoding(reader, prompts, weights, max_new_tokens):
    """Greedy over sum_k p_RETR(n_k) p(token | prompt k), without cache, batch or padding."""
    new = []
    for step in range(max_new_tokens):
        average = 0
        for weight, prompt in zip(weights, prompts, strict=True):
            logits = reader.model(torch.tensor([prompt.input_ids[0].tolist() + new])).logits[0, -1].double()
            average = average + weight * logits.softmax(dim=-1)
        if step == 0:  # an answer has at least one token
            average[end_ids(reader)] = 0
        new.append(int(average.argmax()))
        if new[-1] in end_ids(reader):
            break
    return texts_of(reader, new)


def test_generated_from_independent_prompts_averages_probabilities(family):
    reader = tiny_reader("independent", family)
    singles = single_prompts(reader, None)
    results = {}
    for name, log_p_retr in (("given", LOG_P_RETR), ("other", LOG_P_RETR.flip(1))):
        expected = [
            slow_average_decoding(reader, [p for owner, p in singles if owner == b], row, 6)
            for b, row in enumerate(log_p_retr.exp().tolist())
        ]
        results[name] = reader.generate(Batch(QUESTIONS, PASSAGES), log_p_retr, max_new_tokens=6)
        assert results[name] == expected
    assert results["given"] != results["other"], "weights that change nothing would hide a mistake"


def test_a_passage_that_has_no_answer_has_no_say_in_the_first_token():
    """With the first passage the reader would end at once: what little else it says counts for little."""
    reader = tiny_reader("independent")
    tokenizer = reader.prompts.tokenizer
    [[here], [there], [end]] = (tokenizer(text)["input_ids"] for text in "ab\n")

    def dictate(module, inputs, logits):
        dictated = torch.full_like(logits, 1e-9)
        dictated[0::2, :, [end, here]] = torch.tensor([0.98, 0.02])
        dictated[1::2, :, [here, there]] = torch.tensor([0.4, 0.6])
        return dictated.log()

    reader.model.lm_head.register_forward_hook(dictate)
    weights = torch.tensor([[0.5, 0.5]]).log()
    assert reader.generate(Batch(QUESTIONS[:1], [PASSAGES[0][:2]]), weights, max_new_tokens=4) == ["b"]


def test_generated_from_the_question_alone_is_greedy_one_by_one(reader):
    expected = []
    for question in QUESTIONS:
        ids = reader.prompts.tokenizer(f"Question: {question.text}\nAnswer:")["input_ids"]
        new = []
        while len(new) < 6 and (not new or new[-1] not in end_ids(reader)):
            logits = reader.model(torch.tensor([ids + new])).logits[0, -1].clone()
            if not new:
                logits[end_ids(reader)] = -math.inf
            new.append(int(logits.argmax()))
        expected.append(texts_of(reader, new))
    assert reader.generate_closed_book(QUESTIONS, max_new_tokens=6) == expected
    assert expected != reader.generate(Batch(QUESTIONS, PASSAGES), LOG_P_RETR, max_new_tokens=6)


def test_batches_generate_what_single_questions_do(reader):
    together = reader.generate(Batch(QUESTIONS, PASSAGES), LOG_P_RETR, max_new_tokens=6)
    alone = [
        reader.generate(Batch([question], [passages]), row[None], max_new_tokens=6)[0]
        for question, passages, row in zip(QUESTIONS, PASSAGES, LOG_P_RETR, strict=True)
    ]
    assert together == alone


@pytest.mark.parametrize("context", ["concatenated", "independent"])
@pytest.mark.parametrize("end", ["\n", "</s>"])
def test_generation_stops_at_the_end_of_the_line_and_of_the_sequence(context, end):
    reader = tiny_reader(context)
    tokenizer = reader.prompts.tokenizer
    script = (
        tokenizer(" capital of")["input_ids"] + tokenizer(end)["input_ids"] + tokenizer(" sea")["input_ids"]
    )
    steps = []

    def dictate(module, inputs, logits):
        forced = torch.full_like(logits, -10.0)
        forced[..., script[min(len(steps), len(script) - 1)]] = 10.0
        steps.append(1)
        return forced

    reader.model.lm_head.register_forward_hook(dictate)
    texts = reader.generate(Batch(QUESTIONS, PASSAGES), LOG_P_RETR, max_new_tokens=9)
    assert texts == ["capital of"] * 3
    assert len(steps) == len(tokenizer(" capital of")["input_ids"]) + 1


def test_generation_has_a_limit_and_at_least_one_token():
    reader = tiny_reader()
    newline = reader.prompts.tokenizer("\n")["input_ids"][0]

    def prefer_the_end(module, inputs, logits):
        logits = logits.clone()
        logits[..., newline] = 1e4
        return logits

    longest = reader.generate(Batch(QUESTIONS, PASSAGES), LOG_P_RETR, max_new_tokens=2)
    num_tokens = [len(reader.prompts.tokenizer(text)["input_ids"]) for text in longest]
    assert max(num_tokens) >= 1
    handle = reader.model.lm_head.register_forward_hook(prefer_the_end)
    assert all(len(text) <= 12 for text in reader.generate(Batch(QUESTIONS, PASSAGES), LOG_P_RETR))
    assert any(reader.generate(Batch(QUESTIONS, PASSAGES), LOG_P_RETR))
    handle.remove()


def test_generation_is_in_eval_mode_and_leaves_the_mode():
    tokenizer = tiny_tokenizer()
    model = tiny_falcon_rw(len(tokenizer), attention_dropout=0.9)
    reader = DecoderOnlyReader(model, PromptBuilder(tokenizer)).train()
    texts = [
        tuple(reader.generate(Batch(QUESTIONS, PASSAGES), LOG_P_RETR, max_new_tokens=6)) for _ in range(2)
    ]
    assert texts[0] == texts[1]
    assert all(module.training for module in reader.modules())


# ----------------------------------------------------------------------------------------------- others
@pytest.mark.parametrize(
    "settings", [{"attention_dropout": 0.1}, {"hidden_dropout": 0.1}, {}], ids=["attention", "hidden", "none"]
)
def test_has_dropout_says_whether_train_mode_differs(settings):
    tokenizer = tiny_tokenizer()
    base = tiny_falcon_rw(len(tokenizer))
    config = FalconConfig.from_dict({**base.config.to_dict(), **settings})
    model = type(base)._from_config(config, attn_implementation="sdpa")
    model.load_state_dict(base.state_dict())
    reader = DecoderOnlyReader(model, PromptBuilder(tokenizer))
    with torch.no_grad():
        losses = []
        for mode in (True, False):
            reader.train(mode)
            output = reader.read_answer(BATCH)
            losses.append(reader.answer_loss(output, LOG_P_RETR).item())
    assert (losses[0] != losses[1]) is bool(settings)
    assert reader.has_dropout is bool(settings)


def test_llama_dropout_is_seen():
    tokenizer = tiny_tokenizer()
    model = tiny_llama(len(tokenizer))
    assert not DecoderOnlyReader(model, PromptBuilder(tokenizer)).has_dropout
    model.config.attention_dropout = 0.1
    assert DecoderOnlyReader(model, PromptBuilder(tokenizer)).has_dropout


def test_an_encoder_decoder_is_refused():
    config = T5Config(vocab_size=20, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2)
    with pytest.raises(ValueError, match="t5 is an encoder-decoder model"):
        DecoderOnlyReader(T5ForConditionalGeneration(config), PromptBuilder(tiny_tokenizer()))


class Recorder(TorchFunctionMode):
    """Keeps what every attention call of a pass was given."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.calls.append((args, kwargs))
        return func(*args, **kwargs)


@torch.no_grad()
def test_mixed_precision_rounds_q_and_k_but_not_the_scores(family):
    reader = tiny_reader("concatenated", family)
    with torch.autocast("cpu", dtype=torch.bfloat16), Recorder() as recorder:
        output = reader.read(BATCH)
    assert len(recorder.calls) == 2
    expected = torch.zeros_like(output.token_scores)
    for (query, key, value), kwargs in recorder.calls:
        heads = query.shape[1]
        copies = heads // key.shape[1]
        scale = kwargs.get("scale") or 1 / math.sqrt(query.shape[-1])
        for row in range(len(expected)):
            places = output.prompts.answer_rows_mask[row].nonzero()[:, 0]
            for head in range(heads):
                q, k = query[row, head].float(), key[row, head // copies].float()
                logits = q[places] @ k.T * scale
                mask = kwargs["attn_mask"][row]
                mask = mask[min(head, len(mask) - 1)][places]
                logits = logits.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else logits + mask
                alpha = logits.softmax(dim=-1).mean(dim=0)
                expected[row] += alpha * value[row, head // copies].float().norm(dim=-1)
    expected /= len(recorder.calls) * heads
    torch.testing.assert_close(output.token_scores, expected, rtol=1e-4, atol=1e-6)
    assert output.token_scores.dtype == torch.float32
    in_float32 = reader.read(BATCH).token_scores
    assert (output.token_scores - in_float32).abs().max() > 1e-4, "mixed precision was not on"
