"""Training through the reader's attention, against attention matrices and finite differences."""

import math
from dataclasses import replace

import pytest
import torch
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

from datamodules.batches import Batch
from datamodules.prompts import PromptBuilder
from lightning_modules.attention_heads import AttentionHeads
from lightning_modules.objectives import EndToEnd
from lightning_modules.readers.decoder_only import DecoderOnlyReader
from lightning_modules.scores import log_p_retr
from tests.lightning_modules.objectives.test_training import (
    Watch,
    datamodule,
    make_module,
    make_trainer,
    passages_of,
)
from tests.tiny_models import (
    tiny_fusion_reader,
    tiny_reader,
    tiny_tokenizer,
    toy_passages,
    toy_questions,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*eval mode at the start of training.*"),
    pytest.mark.filterwarnings("ignore:GPU available but not used.*"),
]

QUESTIONS = toy_questions()[:3]
RANKED = [[0, 13, 5, 20], [2, 1, 18, 9], [14, 2, 23, 6]]
PASSAGES = [[toy_passages()[i] for i in ranks] for ranks in RANKED]
BATCH = Batch(QUESTIONS, PASSAGES, ["Paris", "the old city of Tokyo", "Lima"])
UNLABELLED = replace(BATCH, answers=())
LOG_P_RETR = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).log_softmax(dim=-1)


def reader_of(family: str = "llama", heads: str | None = None, double: bool = False, **prompts):
    reader = tiny_reader("concatenated", family, **prompts).requires_grad_(False)
    model = reader.model.double() if double else reader.model
    return DecoderOnlyReader(model, reader.prompts, heads and AttentionHeads.parse(heads))


# ---- against attention matrices ----


def eager_likelihoods(reader, batch, log_p, heads):
    """The answer's mean log-probability, by a model that is given an attention function of ours."""
    prompts = reader.prompts.build(batch)
    given = prompts.input_ids.shape[1]
    bias = torch.zeros(len(batch), 4, given, given)  # [prompts, heads, rows, keys]
    for p in range(len(batch)):
        blocks = prompts.block_of_token[p].tolist()
        last = max(t for t in range(given) if blocks[t] >= 0)
        for row in range(last + 1, given):
            for key in range(given):
                if blocks[key] >= 0:
                    bias[p, :, row, key] = log_p[p, blocks[key]]

    def attend(module, query, key, value, attention_mask, scaling, **kwargs):
        groups = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
        logits = query @ key.transpose(-1, -2) * scaling
        future = torch.ones(given, given, dtype=torch.bool).triu(1)
        logits = logits.masked_fill(future | ~prompts.attention_mask[:, None, None], -1e9)
        is_chosen = torch.tensor([(module.layer_idx, head) in heads for head in range(4)])
        logits = logits + bias * is_chosen[None, :, None, None]
        return (logits.softmax(dim=-1) @ value).transpose(1, 2), None

    AttentionInterface.register("written_out", attend)
    model = reader.model
    model.set_attn_implementation("written_out")
    positions = (prompts.attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
    log_probs = model(
        prompts.input_ids, attention_mask=prompts.attention_mask.long(), position_ids=positions
    ).logits.log_softmax(dim=-1)
    model.set_attn_implementation("sdpa")
    means = []
    for p in range(len(batch)):
        learnt = prompts.answer_mask[p] if batch.answers else prompts.question_mask[p]
        wanted = learnt.nonzero()[:, 0].tolist()
        if batch.answers:
            wanted.append(wanted[-1] + 1)  # the end
        means.append(sum(log_probs[p, t - 1, prompts.input_ids[p, t]] for t in wanted) / len(wanted))
    return torch.stack(means)


@pytest.mark.parametrize("batch", [BATCH, UNLABELLED], ids=["answered", "unlabelled"])
@pytest.mark.parametrize(
    ("heads", "chosen"),
    [
        (None, {(layer, head) for layer in range(2) for head in range(4)}),
        ("0.1,1.2-3", {(0, 1), (1, 2), (1, 3)}),
        ("1.0", {(1, 0)}),
    ],
)
def test_likelihood_and_gradient_equal_those_of_attention_written_out(heads, chosen, batch):
    reader = reader_of(heads=heads)
    log_p = LOG_P_RETR.clone().requires_grad_()
    expected = eager_likelihoods(reader, batch, log_p, chosen)
    (gradient,) = torch.autograd.grad(expected.sum(), log_p)
    found = EndToEnd().read(reader, batch).at(LOG_P_RETR)
    torch.testing.assert_close(found.log_probs, expected.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.gradient, gradient, rtol=1e-3, atol=1e-5)
    assert gradient.abs().max() > 0.01


# ---- against finite differences ----


@pytest.mark.parametrize("batch", [BATCH, UNLABELLED], ids=["answered", "unlabelled"])
def test_the_gradient_of_the_loss_is_that_of_finite_differences(batch):
    objective = EndToEnd()
    output = objective.read(reader_of("falcon_rw", double=True), batch)

    def loss(log_p):
        return objective.loss(objective.log_p_target(output, log_p), log_p, output)

    assert torch.autograd.gradcheck(loss, LOG_P_RETR.double().requires_grad_())
    scores = (LOG_P_RETR.double() + 1).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(scores.log_softmax(dim=-1)), scores)
    # of each question's loss, where the loss is the mean of three
    torch.testing.assert_close(objective.passage_scores(output, LOG_P_RETR.double()), -3 * gradient)


def test_it_reaches_the_retrievers_embeddings():
    objective = EndToEnd()
    output = objective.read(reader_of("falcon_rw", heads="0.1,1.*", double=True), BATCH)
    generator = torch.Generator().manual_seed(1)
    queries, passages = (
        torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((3, 2), (3, 4, 2))
    )

    def loss(queries, passages):
        return objective.loss(LOG_P_RETR, log_p_retr(queries, passages, 0.5), output)

    assert torch.autograd.gradcheck(loss, (queries, passages))


# ---- what it is of ----


def test_equal_weights_of_one_are_the_reader_as_it_is():
    reader = reader_of()
    found = reader.read_weighted(BATCH).at(torch.zeros(3, 4))
    with torch.no_grad():
        answer = reader.read_answer(BATCH)
        expected = -reader.answer_loss(answer, LOG_P_RETR)
    torch.testing.assert_close(found.log_probs.mean(), expected)


def test_padding_and_other_questions_change_nothing():
    together = {side: reader_of(padding_side=side).read_weighted(BATCH) for side in ("left", "right")}
    widths = [output.prompts.attention_mask.sum(dim=1) for output in together.values()]
    assert len(set(widths[0].tolist())) > 1
    for row in range(3):
        alone = Batch(QUESTIONS[row : row + 1], PASSAGES[row : row + 1], BATCH.answers[row : row + 1])
        expected = reader_of().read_weighted(alone).at(LOG_P_RETR[row : row + 1])
        for output in together.values():
            found = output.at(LOG_P_RETR)
            torch.testing.assert_close(found.log_probs[row : row + 1], expected.log_probs)
            torch.testing.assert_close(found.gradient[row : row + 1], expected.gradient, rtol=1e-4, atol=1e-6)


def test_weights_are_of_ranks_in_whatever_order_the_prompt_shows_them():
    reader = reader_of(passage_order="shuffled")
    shuffled = reader.read_weighted(BATCH)
    orders = [list(dict.fromkeys(row[row >= 0].tolist())) for row in shuffled.prompts.block_of_token]
    assert orders[0] != sorted(orders[0])
    shown = replace(BATCH, passages=[[PASSAGES[b][i] for i in order] for b, order in enumerate(orders)])
    order = torch.tensor(orders)
    expected = reader_of().read_weighted(shown).at(LOG_P_RETR.gather(1, order))
    found = shuffled.at(LOG_P_RETR)
    torch.testing.assert_close(found.log_probs, expected.log_probs)
    torch.testing.assert_close(found.gradient.gather(1, order), expected.gradient)


def test_the_pass_is_made_once_for_target_and_loss_and_leaves_no_gradient_in_the_reader():
    reader = tiny_reader("concatenated").train()  # as where it is trained too
    made = []
    reader.model.base_model.register_forward_hook(lambda *args: made.append(reader.model.training))
    objective = EndToEnd()
    log_p = LOG_P_RETR.clone().requires_grad_()
    with torch.no_grad():
        output = objective.read(reader, BATCH)
    objective.loss(objective.log_p_target(output, log_p), log_p, output).backward()
    assert made == [False], "one pass, in eval mode"
    assert reader.model.training
    assert log_p.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in reader.parameters())
    with torch.no_grad():
        again = objective.loss(LOG_P_RETR, LOG_P_RETR, output)
        other = objective.loss(LOG_P_RETR, torch.zeros(3, 4), output)
    assert len(made) == 2
    assert not again.requires_grad
    assert again != other


def test_what_cannot_be_is_refused(tmp_path):
    for reader in (tiny_reader("independent"), tiny_fusion_reader()):
        assert "use a decoder-only reader with context concatenated" in EndToEnd().unfit(reader)
        with pytest.raises(ValueError, match="context concatenated"):
            reader.read_weighted(BATCH)
    assert EndToEnd().unfit(tiny_reader("concatenated")) is None
    with pytest.raises(ValueError, match="objective: end_to_end weighs attention between passages"):
        make_module(tmp_path, "independent", objective=EndToEnd())


# ---- that it teaches ----


def reader_that_repeats() -> DecoderOnlyReader:
    """One layer, set by hand: attention is even, and what was read more often is said more likely."""
    tokenizer = tiny_tokenizer()
    size = len(tokenizer)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=1,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = LlamaForCausalLM._from_config(config, attn_implementation="sdpa").eval()
    attention, same = model.model.layers[0].self_attn, torch.eye(size)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.zero_()
    model.model.embed_tokens.weight.data.copy_(same)
    attention.v_proj.weight.data.copy_(same)
    attention.o_proj.weight.data.copy_(10 * same)
    model.lm_head.weight.data.copy_(3 * same)
    return DecoderOnlyReader(model, PromptBuilder(tokenizer))


def test_it_finds_and_teaches_the_passage_that_the_answer_can_be_copied_from(tmp_path):
    module = make_module(tmp_path, reader=reader_that_repeats(), objective=EndToEnd())
    questions = toy_questions()[:4]
    answers = [question.answers[0] for question in questions]
    batch = Batch(questions, [passages_of(question) for question in questions], answers)
    even = torch.full((4, 4), -math.log(4))
    scores = module.objective.passage_scores(module.objective.read(module.reader, batch), even)
    assert scores.argmax(dim=1).tolist() == [0] * 4, "the first passage of each names the capital"
    with torch.no_grad():
        before = module.log_p_retr(batch).exp()[:, 0]
    watch = Watch()
    trainer = make_trainer(tmp_path, watch, max_steps=15, max_epochs=-1, limit_val_batches=0)
    trainer.fit(module, datamodule())
    with torch.no_grad():
        after = module.log_p_retr(batch).exp()[:, 0]
    assert (after > before + 0.1).all()
    assert after.mean() > 0.9
    assert watch.losses[-1] < watch.losses[0]
    assert watch.reached == {"retriever"}
