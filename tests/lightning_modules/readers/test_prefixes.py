"""Solved examples before the prompts against plain passes over one whole sequence at a time, unpadded."""

import functools

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from datamodules.batches import Batch, SolvedExample
from datamodules.prompts import Context, PromptBuilder, Shown
from lightning_modules.answer_attention import AnswerAttention
from lightning_modules.readers.decoder_only import DecoderOnlyReader
from lightning_modules.readers.outputs import mean_log_prob
from lightning_modules.readers.prefixes import NoPrefix, RepeatedPrefix, SharedPrefix, prefix_of
from tests.tiny_models import tiny_falcon_rw, tiny_llama, tiny_tokenizer, toy_passages, toy_questions

QUESTIONS = toy_questions()[:3]
PASSAGES = [[toy_passages()[i] for i in rows] for rows in ((0, 13), (1, 2), (20, 2))]
ANSWERS = ["Paris", "Tokyo or Kyoto", "Lima"]
BATCH = Batch(QUESTIONS, PASSAGES, ANSWERS)
EXAMPLES = (
    SolvedExample(toy_questions()[7], toy_passages()[7], "Havana"),
    SolvedExample(toy_questions()[9], toy_passages()[9], "Madrid"),
)
TOKENIZER = tiny_tokenizer()
LOG_P_RETR = torch.tensor([[0.7, 0.3], [0.1, 0.9], [0.5, 0.5]]).log()


def random_model(model_class, config):
    torch.manual_seed(0)
    model = model_class._from_config(config, attn_implementation="sdpa").eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.2)
    return model


def gpt2(vocabulary):
    ends = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    config = GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, **ends)
    return random_model(GPT2LMHeadModel, config)


def falcon_rotary(vocabulary):
    """One head of keys and values for all."""
    ends = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    config = FalconConfig(
        vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=False, **ends
    )
    return random_model(FalconForCausalLM, config)


def mistral(vocabulary):
    """A window that is shorter than the sequences slides over the keys."""
    config = MistralConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=90,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    return random_model(MistralForCausalLM, config)


FAMILIES = {
    "llama": tiny_llama,
    "falcon_rw": tiny_falcon_rw,
    "falcon_rotary": falcon_rotary,
    "gpt2": gpt2,
    "mistral": mistral,
}
SHARING = [name for name in FAMILIES if name != "mistral"]


def new_reader_of(family, context, examples=EXAMPLES, **settings):
    prompts = PromptBuilder(TOKENIZER, context=context, examples=examples, **settings)
    return DecoderOnlyReader(FAMILIES[family](len(TOKENIZER)), prompts).eval()


reader_of = functools.cache(new_reader_of)
"""For tests that leave it as it is."""


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(params=["once", "with_each_prompt"])
def way(request):
    """Without and with gradient into the weights: once for all prompts, or as a part of each."""
    with torch.set_grad_enabled(request.param == "with_each_prompt"):
        yield request.param


def single_prompts(reader, answered=True):
    """One unpadded prompt at a time, in the reader's order."""
    for question, passages, answer in zip(QUESTIONS, PASSAGES, ANSWERS, strict=True):
        groups = [[p] for p in passages] if reader.prompts.context is Context.INDEPENDENT else [passages]
        for group in groups:
            yield reader.prompts.build(Batch([question], [group], [answer] if answered else ()))


def whole(prompt):
    """The examples' tokens and the prompt's: what a reader would see that knows of no prefix."""
    return torch.tensor([[*prompt.prefix_ids, *prompt.input_ids[0].tolist()]])


@torch.no_grad()
def plain_pass(reader, prompt):
    """Of the prompt's tokens: s_t by answer row, s_t of the question's rows, log p of the labels, hidden."""
    num_before = len(prompt.prefix_ids)
    rows, asked = (F.pad(mask, (num_before, 0)) for mask in (prompt.answer_rows_mask, prompt.question_mask))
    with AnswerAttention(rows, num_layers=2, question_mask=asked) as attention:
        output = reader.model(whole(prompt), output_hidden_states=True)
    log_probs = output.logits[0].double().log_softmax(dim=-1)
    labels = (prompt.label_mask[0].nonzero()[:, 0] + num_before).tolist()
    of_labels = torch.stack([log_probs[t, whole(prompt)[0, t + 1]] for t in labels]).float()
    scores = attention.row_scores()[0, :, num_before:], attention.question_scores()[0, num_before:]
    return *scores, of_labels, output.hidden_states[-1][0, num_before:]


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_a_pass_equals_plain_passes_over_examples_and_prompt(family, way, padding_side):
    reader = reader_of(family, "independent", padding_side=padding_side)
    output = reader.read_signals(BATCH)
    assert not output.prompts.attention_mask.all(), "prompts of one length would hide the padding"
    for row, prompt in enumerate(single_prompts(reader)):
        of_rows, of_question, log_probs, hidden = plain_pass(reader, prompt)
        real = output.prompts.attention_mask[row]
        close(output.row_scores[row][output.row_mask[row]][:, real], of_rows)
        close(output.token_scores[row][real], of_rows.mean(dim=0))
        close(output.question_scores[row][real], of_question)
        close(output.label_log_probs[row][output.label_mask[row]].detach(), log_probs)
        close(output.hidden[row][real], hidden)
    for scores in (output.token_scores, output.question_scores):
        assert scores[~output.prompts.attention_mask].abs().max() == 0
    assert output.row_scores.sum(dim=1)[~output.prompts.attention_mask].abs().max() == 0


@pytest.mark.parametrize("context", ["concatenated", "independent"])
def test_every_pass_sees_the_examples(context, way):
    reader = reader_of("llama", context)
    expected = [plain_pass(reader, prompt) for prompt in single_prompts(reader)]
    for output in (reader.read(BATCH), reader.read_answer(BATCH), reader.read_heads(BATCH)):
        for row, (of_rows, _, _, _) in enumerate(expected):
            real = output.prompts.attention_mask[row]
            close(output.token_scores[row][real], of_rows.mean(dim=0))
    close(output.head_scores.mean(dim=(1, 2)), output.token_scores)
    if reader.reads_alone:
        found = reader.answer_likelihoods(BATCH, Shown.EACH_ALONE)
        for row, (_, _, log_probs, _) in enumerate(expected):
            close(found.log_probs.flatten(0, 1)[row][: len(log_probs)].detach(), log_probs)


@pytest.mark.parametrize("context", ["concatenated", "independent"])
def test_masked_tokens_are_read_behind_the_examples(context, way):
    reader = reader_of("gpt2", context)
    made = reader.embed_each_alone(BATCH)
    found = reader.answer_likelihoods(BATCH, Shown.EACH_ALONE)
    likelihoods = mean_log_prob(found.log_probs, found.mask).flatten()
    close(made.log_likelihoods, likelihoods)
    rows = torch.tensor([2, 0, 2])
    for first in (0, 9, made.inputs.shape[1] - 1):  # what stands before it is not read again
        close(made.rescore(rows, made.inputs[rows], first), likelihoods[rows])
    drops = reader.read_drops(BATCH, "gradient").token_scores
    assert drops.shape == made.prompts.input_ids.shape
    assert drops.max() > 0


@torch.no_grad()
def slow_answers(reader):
    """Greedy decoding from whole sequences, by p_RETR of the passages where they are read one by one."""
    ends = [reader.tokenizer.eos_token_id, *reader.tokenizer("\n")["input_ids"]]
    sequences = [whole(prompt) for prompt in single_prompts(reader, answered=False)]
    per_question = len(sequences) // len(QUESTIONS)
    answers = []
    for b in range(len(QUESTIONS)):
        own, new = sequences[b * per_question : (b + 1) * per_question], []
        weights = LOG_P_RETR[b].exp() if per_question > 1 else [1.0]
        while len(new) < 4 and (not new or new[-1] not in ends):
            continued = [torch.cat([ids, torch.tensor([new], dtype=torch.long)], dim=1) for ids in own]
            probs = [reader.model(ids).logits[0, -1].double().softmax(dim=-1) for ids in continued]
            average = sum(weight * p for weight, p in zip(weights, probs, strict=True))
            if not new:
                average[ends] = 0
            new.append(int(average.argmax()))
        answers.append(reader.tokenizer.decode(new, skip_special_tokens=True).strip().split("\n")[0].strip())
    return answers


@pytest.mark.parametrize("context", ["concatenated", "independent"])
def test_answers_are_those_of_whole_sequences(family, context):
    reader = reader_of(family, context)
    batch = Batch(QUESTIONS, PASSAGES)
    assert reader.generate(batch, LOG_P_RETR, max_new_tokens=4) == slow_answers(reader)
    without = reader.showing(examples=()).generate(batch, LOG_P_RETR, max_new_tokens=4)
    assert without != slow_answers(reader), "examples that change nothing would hide a mistake"


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_closed_book_answers_follow_examples_without_passages(family):
    reader = reader_of(family, "independent")
    shown = "".join(f"Question: {e.question.text}\nAnswer: {e.answer}\n" for e in EXAMPLES)
    expected = []
    for question in QUESTIONS:
        ids = reader.tokenizer(f"{shown}Question: {question.text}\nAnswer:", return_tensors="pt")["input_ids"]
        ends = [1, *reader.tokenizer("\n")["input_ids"]]
        output = reader.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=4,
            min_new_tokens=1,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=0,
        )
        text = reader.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
        expected.append(text.strip().split("\n")[0].strip())
    assert reader.generate_closed_book(QUESTIONS, max_new_tokens=4) == expected


@pytest.mark.parametrize("context", ["concatenated", "independent"])
def test_the_reader_learns_from_whole_sequences(context):
    reader = reader_of("llama", context)
    output = reader.read_answer(BATCH)
    (output.label_log_probs * output.label_mask).sum().backward()
    found = {name: weight.grad for name, weight in reader.named_parameters()}
    reader.zero_grad()
    for prompt in single_prompts(reader):
        labels = whole(prompt)
        labels[:, : len(prompt.prefix_ids) + int(prompt.answer_mask[0].nonzero()[0])] = -100
        loss = reader.model(whole(prompt), labels=labels).loss
        (-loss * (labels != -100).sum()).backward()
    for name, weight in reader.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, rtol=1e-3, atol=1e-3)
    reader.zero_grad()


# ---------------------------------------------------------------------------------------------- how often
@pytest.fixture
def shapes():
    """Of what a model was given, pass by pass."""
    return []


def watch(reader, shapes):
    reader.model.base_model.register_forward_hook(
        lambda module, args, output: shapes.append(tuple(output.last_hidden_state.shape[:2]))
    )


@pytest.mark.parametrize("family", ["llama", "falcon_rw"])
def test_examples_are_run_once_unless_the_reader_learns_from_them(family, shapes):
    reader = new_reader_of(family, "independent")
    prompts = reader.prompts.build(BATCH)
    num_before, width = len(prompts.prefix_ids), prompts.input_ids.shape[1]
    watch(reader, shapes)
    with torch.no_grad():
        reader.read(BATCH)
    assert shapes == [(1, num_before), (6, width)]
    shapes.clear()
    reader.read_answer(BATCH)
    assert shapes == [(6, num_before + width)]
    shapes.clear()
    reader.requires_grad_(False).read_answer(BATCH)
    assert shapes == [(1, num_before), (6, width)]
    shapes.clear()
    reader.generate(Batch(QUESTIONS, PASSAGES), LOG_P_RETR, max_new_tokens=3)
    assert shapes[0] == (1, num_before)
    assert set(shapes[2:]) == {(6, 1)}


def test_new_weights_are_seen_at_once():
    reader = new_reader_of("llama", "independent").requires_grad_(False)
    old = reader.read(BATCH).token_scores
    for weight in reader.parameters():
        weight.data.mul_(1.3)
    fresh = DecoderOnlyReader(reader.model, PromptBuilder(TOKENIZER, "independent", examples=EXAMPLES))
    assert torch.equal(reader.read(BATCH).token_scores, fresh.read(BATCH).token_scores)
    assert not torch.allclose(reader.read(BATCH).token_scores, old)


def test_a_shared_prefix_serves_one_batch_after_the_other():
    reader = new_reader_of("llama", "independent").requires_grad_(False)
    prompts = reader.prompts.build(BATCH)
    prefix = prefix_of(prompts, reader.model)
    first = reader.model(**prefix.inputs(prompts)).logits
    reader.model.generate(**prefix.generation_inputs(prompts), max_new_tokens=2, pad_token_id=0)
    fewer = prompts.select(torch.tensor([4, 1]))
    close(reader.model(**prefix.inputs(fewer)).logits, first[[4, 1]])


@torch.no_grad()
def test_which_models_begin_behind_a_prefix():
    kinds = {name: type(prefix_of(*_prompts_and_model(name))) for name in FAMILIES}
    assert kinds == {name: SharedPrefix if name in SHARING else RepeatedPrefix for name in FAMILIES}
    reader = reader_of("llama", "independent", examples=())
    assert isinstance(prefix_of(reader.prompts.build(BATCH), reader.model), NoPrefix)


def _prompts_and_model(family):
    reader = new_reader_of(family, "independent")
    return reader.prompts.build(BATCH), reader.model


def test_more_than_the_model_can_read_is_refused():
    prompts, model = _prompts_and_model("gpt2")
    model.config.n_positions = len(prompts.prefix_ids) + prompts.input_ids.shape[1]
    prefix_of(prompts, model)
    model.config.n_positions -= 1
    with pytest.raises(ValueError, match=r"examples: \d+ tokens of .* show fewer examples"):
        prefix_of(prompts, model)


class WithoutPositions(LlamaForCausalLM):
    """Counts for itself, from the first token of a sequence on, padding included."""

    def forward(self, input_ids=None, attention_mask=None, use_cache=None, logits_to_keep=0):
        return super().forward(input_ids, attention_mask, use_cache=use_cache, logits_to_keep=logits_to_keep)


@torch.no_grad()
def test_a_model_without_position_ids_reads_whole_sequences():
    model = random_model(WithoutPositions, tiny_llama(len(TOKENIZER)).config)
    reader = DecoderOnlyReader(model, PromptBuilder(TOKENIZER, context="independent", examples=EXAMPLES))
    assert isinstance(prefix_of(reader.prompts.build(BATCH), reader.model), RepeatedPrefix)
    found = reader.answer_likelihoods(BATCH, Shown.EACH_ALONE)
    for row, prompt in enumerate(single_prompts(reader)):
        log_probs = reader.model(whole(prompt)).logits[0].double().log_softmax(dim=-1)
        labels = (prompt.label_mask[0].nonzero()[:, 0] + len(prompt.prefix_ids)).tolist()
        expected = torch.stack([log_probs[t, whole(prompt)[0, t + 1]] for t in labels]).float()
        close(found.log_probs.flatten(0, 1)[row][: len(expected)], expected)
