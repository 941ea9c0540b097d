"""The Fusion-in-Decoder reader against eager attention, one question at a time."""

import copy
import itertools

import pytest
import torch
from torch import Tensor
from transformers import T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from datamodules.batches import AnswerBatch, Batch, PromptBatch
from datamodules.fusion_prompts import FusionPromptBuilder
from datamodules.prompts import Shown
from lightning_modules.attention_heads import AttentionHeads
from lightning_modules.metrics.indicators import AttentionNormalization
from lightning_modules.metrics.units import passage_units
from lightning_modules.readers.base import TokenEmbeddings
from lightning_modules.readers.fusion_in_decoder import FusionInDecoderReader
from lightning_modules.readers.outputs import HeadOutput
from tests.tiny_models import tiny_fusion_reader, tiny_llama, tiny_tokenizer, toy_passages, toy_questions

QUESTIONS = toy_questions()[:3]
PASSAGES = [[toy_passages()[j] for j in (i, i + 12, i + 3, 23 - i)] for i in range(3)]
ANSWERS = ["Paris", "Tokyo or Kyoto", "Lima"]
BATCH = Batch(QUESTIONS, PASSAGES, ANSWERS)
UNIFORM = torch.full((3, 4), 0.25).log()


@pytest.fixture(params=["v1_1", "first"])
def reader(request) -> FusionInDecoderReader:
    return tiny_fusion_reader(v1_1=request.param == "v1_1")


@torch.no_grad()
def slow_head_scores(model, prompts: PromptBatch, labels: AnswerBatch, b: int) -> Tensor:
    """[layers, heads, K * tokens]: mean over labels of alpha * |v|, from materialised eager attention."""
    eager = T5ForConditionalGeneration._from_config(copy.deepcopy(model.config), attn_implementation="eager")
    eager.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))  # may be one of its own
    eager.load_state_dict(model.state_dict())
    eager.eval()
    own = slice(b * prompts.num_passages, (b + 1) * prompts.num_passages)
    states = [
        eager.encoder(input_ids=ids[mask][None]).last_hidden_state[0]
        for ids, mask in zip(prompts.input_ids[own], prompts.attention_mask[own], strict=True)
    ]
    fused = torch.cat(states)[None]
    length = int(labels.label_mask[b].sum())
    output = eager(
        encoder_outputs=BaseModelOutput(last_hidden_state=fused),
        labels=labels.ids[b : b + 1, :length],
        output_attentions=True,
    )
    scores = torch.zeros(len(eager.decoder.block), 4, fused.shape[1])
    for layer, (attentions, block) in enumerate(
        zip(output.cross_attentions, eager.decoder.block, strict=True)
    ):
        norms = block.layer[1].EncDecAttention.v(fused)[0].unflatten(-1, (4, -1)).norm(dim=-1)
        for row, head in itertools.product(range(length), range(4)):
            scores[layer, head] += attentions[0, head, row] * norms[:, head] / length
    return scores


@torch.no_grad()
def assert_equals_eager(reader, prompts: PromptBatch, labels: AnswerBatch) -> None:
    output = reader.read_heads_prompts(prompts, labels)
    torch.testing.assert_close(output.head_scores.mean(dim=(1, 2)), output.token_scores)
    for b in range(prompts.num_questions):
        own = slice(b * prompts.num_passages, (b + 1) * prompts.num_passages)
        mask = prompts.attention_mask[own]
        scores = output.token_scores[own]
        by_head = slow_head_scores(reader.model, prompts, labels, b)
        found = output.head_scores[own].movedim(0, 2)[:, :, mask]
        torch.testing.assert_close(found, by_head, rtol=1e-4, atol=1e-6)
        expected = by_head.mean(dim=(0, 1))
        torch.testing.assert_close(scores[mask], expected, rtol=1e-4, atol=1e-7)
        assert not scores[~mask].any()
        assert expected.std() > 1e-3, "uniform attention would hide a mistake"


def test_equals_eager_attention(reader):
    prompts = reader.prompts.build(Batch(QUESTIONS, PASSAGES))
    assert_equals_eager(reader, prompts, reader.prompts.build_answers(ANSWERS))


@torch.no_grad()
def test_the_decoder_ends_at_the_last_chosen_head_with_the_same_scores(reader):
    choosy = FusionInDecoderReader(reader.model, reader.prompts, AttentionHeads.parse("0.1,1.*"))
    whole, run = choosy.read_answer(BATCH), []
    hooks = [
        block.register_forward_hook(lambda block, args, output, number=number: run.append(number))
        for number, block in enumerate(reader.model.decoder.block)
    ]
    ended = choosy.read(BATCH)
    for hook in hooks:
        hook.remove()
    assert run == [0], "blocks that ran to their end, of three"
    assert torch.equal(ended.token_scores, whole.token_scores)
    assert torch.equal(ended.row_scores, whole.row_scores)
    assert torch.equal(ended.last_hidden, whole.last_hidden), "the encoder's"
    assert torch.equal(choosy.read_attention(BATCH).token_scores, whole.token_scores)


def test_no_row_of_the_question_is_attended(reader):
    with pytest.raises(ValueError, match="this fusion_in_decoder reader has rows of the answer alone"):
        reader.read_question_heads(BATCH)


@torch.no_grad()
def test_chosen_heads_alone_count(reader):
    heads = AttentionHeads.parse("0.1,2.*")
    choosy = FusionInDecoderReader(reader.model, reader.prompts, heads)
    output = choosy.read_heads(BATCH)
    assert output.head_scores.shape[1:3] == (3, 4)
    expected = output.head_scores[:, heads.mask(3, 4)].mean(dim=1)
    torch.testing.assert_close(output.token_scores, expected)
    all_heads = reader.read(BATCH)
    assert not isinstance(all_heads, HeadOutput)
    assert not torch.allclose(all_heads.token_scores, output.token_scores, rtol=0.1)


def test_a_head_that_the_decoder_lacks_is_refused(reader):
    FusionInDecoderReader(reader.model, reader.prompts, AttentionHeads.parse("2.3"))
    for text in ("3.0", "0.4"):
        with pytest.raises(ValueError, match=f"^attention_heads={text}: the reader has no {text}; .* 0 to 2"):
            FusionInDecoderReader(reader.model, reader.prompts, AttentionHeads.parse(text))


def random_batch(num_passages: int, num_tokens: int, num_labels: int) -> tuple[PromptBatch, AnswerBatch]:
    generator = torch.Generator().manual_seed(0)
    real = torch.ones(num_passages, num_tokens, dtype=torch.bool)
    prompts = PromptBatch(
        input_ids=torch.randint(2, 300, (num_passages, num_tokens), generator=generator),
        attention_mask=real,
        block_of_token=torch.arange(num_passages)[:, None].expand(-1, num_tokens),
        content_mask=real,
        content_part=real.long(),
        question_mask=~real,
        noun_mask=~real,
        answer_mask=~real,
        target_mask=~real,
        answer_rows_mask=~real,
        label_mask=~real,
        question_of_prompt=torch.zeros(num_passages, dtype=torch.long),
        num_questions=1,
        num_passages=num_passages,
        is_fused=True,
    )
    ids = torch.randint(2, 300, (1, num_labels), generator=generator)
    label_mask = torch.ones(1, num_labels, dtype=torch.bool)
    return prompts, AnswerBatch(ids, label_mask, label_mask, label_mask)


@pytest.mark.parametrize("num_passages", [1, 2])
def test_self_attention_of_equal_shape_does_not_count(reader, num_passages):
    """As many labels as encoded tokens: the decoder's self-attention looks like its cross-attention."""
    assert_equals_eager(reader, *random_batch(num_passages, num_tokens=6, num_labels=6 * num_passages))


def test_nothing_is_left_on_the_model(reader):
    reader.read(BATCH)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in reader.modules())


@torch.no_grad()
def test_passages_are_read_alone_and_left_out_one_by_one(reader):
    prompts = reader.prompts.build(Batch(QUESTIONS, PASSAGES))
    labels = reader.prompts.build_answers(ANSWERS)
    alone = reader.prompt_likelihoods(prompts, labels, Shown.EACH_ALONE)
    without = reader.prompt_likelihoods(prompts, labels, Shown.EACH_LEFT_OUT)
    for b, k in itertools.product(range(3), range(4)):
        others = [passage for j, passage in enumerate(PASSAGES[b]) if j != k]
        for likelihoods, shown in ((alone, [PASSAGES[b][k]]), (without, others)):
            output = reader.read_answer(Batch([QUESTIONS[b]], [shown], [ANSWERS[b]]))
            found = likelihoods.log_probs[b, k][likelihoods.mask[b]]
            torch.testing.assert_close(found, output.label_log_probs[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("closed_book", [False, True])
def test_generates_what_a_greedy_loop_finds(reader, closed_book):
    if closed_book:
        texts = reader.generate_closed_book(QUESTIONS, max_new_tokens=6)
    else:
        texts = reader.generate(Batch(QUESTIONS, PASSAGES), UNIFORM, max_new_tokens=6)
    for b in range(3):
        if closed_book:
            prompts = reader.prompts.build_closed_book([QUESTIONS[b]])
        else:
            prompts = reader.prompts.build(Batch([QUESTIONS[b]], [PASSAGES[b]]))
        states = reader._encode(prompts).reshape(1, -1, 32)
        ids = torch.tensor([[0]])
        for step in range(6):
            output = reader.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=states),
                attention_mask=prompts.attention_mask.reshape(1, -1).long(),
                decoder_input_ids=ids,
            )
            logits = output.logits[:, -1]
            if step == 0:
                logits[:, 1] = -torch.inf  # an empty answer is no answer
            ids = torch.cat([ids, logits.argmax(dim=-1, keepdim=True)], dim=1)
            if ids[0, -1] == 1:
                break
        expected = reader.prompts.tokenizer.decode(ids[0], skip_special_tokens=True)
        assert texts[b] == " ".join(expected.split())


@torch.no_grad()
@pytest.mark.parametrize("embeddings", list(TokenEmbeddings))
def test_units_compare_passages_with_the_answer_beside_them(reader, embeddings):
    output = reader.read(BATCH)
    units = passage_units(output, reader, embeddings)
    labels = reader.prompts.build_answers(ANSWERS)
    for unit in range(12):
        b = int(units.question_of_unit[unit])
        answer = labels.ids[b][labels.answer_mask[b]]
        assert reader.prompts.tokenizer.decode(answer) == ANSWERS[b]
        words = [t for t, token in enumerate(answer) if reader.prompts.tokenizer.decode([token]).strip()]
        if embeddings is TokenEmbeddings.INPUT:
            vectors, targets = (
                reader.embedding_matrix[ids] for ids in (output.prompts.input_ids[unit], answer)
            )
        else:
            whole = labels.ids[b][labels.label_mask[b]][None]
            vectors = output.hidden[unit]
            targets = reader.model.encoder(input_ids=whole).last_hidden_state[0, :-1]
        targets = targets[words]
        cosines = torch.cosine_similarity(vectors[:, None], targets[None], dim=-1).amax(dim=1)
        mask = units.mask[unit]
        torch.testing.assert_close(units.answer_similarity[unit][mask], cosines[mask], rtol=1e-4, atol=1e-5)
    assert not units.noun_similarity.isnan().any()


def test_attention_normalised_over_the_prompt_is_shared_out_over_all_passages(reader):
    output = reader.read(BATCH)
    units = passage_units(output, reader, normalization=AttentionNormalization.PROMPT)
    shares = units.attention.sum(dim=1).view(3, 4).sum(dim=1)
    assert (shares < 1).all(), "the template's tokens get some"
    content = output.token_scores.masked_fill(~output.prompts.content_mask, 0.0)
    expected = content.view(3, -1).sum(dim=1) / output.token_scores.view(3, -1).sum(dim=1)
    torch.testing.assert_close(shares, expected)


def test_reads_in_half_precision_with_scores_in_float32(reader):
    reader.model.to(torch.bfloat16)
    assert reader.read(BATCH).token_scores.dtype == torch.float32


def test_another_architecture_is_refused():
    tokenizer = tiny_tokenizer()
    with pytest.raises(ValueError, match="T5ForConditionalGeneration, not LlamaForCausalLM"):
        FusionInDecoderReader(tiny_llama(len(tokenizer)), FusionPromptBuilder(tokenizer))
