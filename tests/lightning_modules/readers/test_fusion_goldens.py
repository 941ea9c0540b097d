"""The Fusion-in-Decoder reader against figures computed with Atlas's own code (`tests/goldens/`)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import T5ForConditionalGeneration

from datamodules.batches import AnswerBatch, PromptBatch, TokenScope
from datamodules.fusion_prompts import FusionPromptBuilder
from datamodules.prompts import Shown
from lightning_modules.answer_attention import AnswerAttention
from lightning_modules.objectives import LOOP, ADist, PDist
from lightning_modules.objectives.adist import ATLAS_PASSAGE_LENGTH
from lightning_modules.objectives.base import kl_divergence
from lightning_modules.objectives.emdr2 import marginal_likelihood_loss
from lightning_modules.readers.base import log_probs_of
from lightning_modules.readers.fusion_in_decoder import FusionInDecoderReader
from lightning_modules.scores import PASSAGE_SCORES, PassageTokens, log_p_retr
from tests.tiny_models import tiny_tokenizer

TOLERANCE = {"rtol": 1e-5, "atol": 1e-7}
TEMPERATURES = [("tg0.01_ts0.01", 0.01, 0.01), ("tg0.1_ts0.1", 0.1, 0.1)]
EMDR_TEMPERATURES = [*TEMPERATURES, ("tg1.0_ts1.0", 1.0, 1.0), ("tg1.0_ts0.01", 1.0, 0.01)]


@pytest.fixture(scope="module")
def goldens(goldens_folder) -> dict[str, Tensor]:
    with np.load(goldens_folder / "atlas_fid_scores.npz") as arrays:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


@pytest.fixture(scope="module")
def reader(goldens_folder: Path) -> FusionInDecoderReader:
    folder = goldens_folder / "t5_tiny_relu_tied"
    model = T5ForConditionalGeneration.from_pretrained(folder, attn_implementation="sdpa")
    return FusionInDecoderReader(model, FusionPromptBuilder(tiny_tokenizer())).eval()


@pytest.fixture(scope="module")
def prompts(goldens) -> PromptBatch:
    """Atlas counts every real token, the question's too."""
    return make_prompts(goldens, goldens["in.reader_mask"])


def make_prompts(goldens, counted: Tensor) -> PromptBatch:
    ids, mask = goldens["in.reader_ids"], goldens["in.reader_mask"]
    batch, passages, _ = ids.shape
    nothing = torch.zeros_like(mask).flatten(0, 1)
    return PromptBatch(
        input_ids=ids.flatten(0, 1),
        attention_mask=mask.flatten(0, 1),
        block_of_token=torch.where(counted, torch.arange(passages)[:, None], -1).flatten(0, 1),
        content_mask=nothing,
        content_part=nothing.long(),
        question_mask=nothing,
        noun_mask=nothing,
        answer_mask=nothing,
        target_mask=nothing,
        answer_rows_mask=nothing,
        label_mask=nothing,
        question_of_prompt=torch.arange(batch).repeat_interleave(passages),
        num_questions=batch,
        num_passages=passages,
        is_fused=True,
    )


@pytest.fixture(scope="module")
def labels(goldens) -> AnswerBatch:
    mask = goldens["in.labels"] >= 0
    return AnswerBatch(goldens["in.labels"].clamp(min=0), mask, mask, mask)


@torch.no_grad()
def test_forward_pass(reader, prompts, labels, goldens):
    encoded = reader._encode(prompts)
    torch.testing.assert_close(
        encoded.view(2, -1, 32), goldens["reader.encoder_last_hidden_state"], rtol=0, atol=5e-5
    )
    assert torch.equal(reader._decoder_inputs(labels), goldens["in.decoder_input_ids"])
    logits = reader._decode(encoded.view(2, -1, 32), prompts.attention_mask.view(2, -1), labels)
    torch.testing.assert_close(logits, goldens["reader.logits"], rtol=0, atol=5e-5)
    alone = reader._decode(encoded, prompts.attention_mask, repeat(labels, 5))
    torch.testing.assert_close(alone, goldens["emdr.logits"], rtol=0, atol=5e-5)


def repeat(labels: AnswerBatch, times: int) -> AnswerBatch:
    return AnswerBatch(*(tensor.repeat_interleave(times, dim=0) for tensor in vars(labels).values()))


@torch.no_grad()
def test_answer_loss(reader, prompts, labels, goldens):
    """Atlas averages over the tokens of the batch, the product over those of each answer first."""
    output = reader.read_answer_prompts(prompts, labels)
    torch.testing.assert_close(
        -output.label_log_probs.sum() / labels.label_mask.sum(), goldens["reader.loss"], **TOLERANCE
    )
    per_answer = [float(-r.label_log_probs.mean()) for r in one_by_one(reader, prompts, labels)]
    loss = reader.answer_loss(output, torch.zeros(2, 5))
    torch.testing.assert_close(float(loss), sum(per_answer) / 2, rtol=1e-5, atol=0)


def one_by_one(reader, prompts: PromptBatch, labels: AnswerBatch):
    for b in range(2):
        tensors = {name: value for name, value in vars(prompts).items() if isinstance(value, Tensor)}
        own = {name: value[5 * b : 5 * b + 5] for name, value in tensors.items()}
        own["question_of_prompt"] = torch.zeros(5, dtype=torch.long)
        length = int(labels.label_mask[b].sum())
        answer = AnswerBatch(*(tensor[b : b + 1, :length] for tensor in vars(labels).values()))
        batch = PromptBatch(**own, num_questions=1, num_passages=5, is_fused=True)
        yield reader.read_answer_prompts(batch, answer)


class Probabilities(AnswerAttention):
    """Without the value norms: Atlas's `probs`."""

    def _score(self, logits, value):
        return logits.softmax(dim=-1)


class Logits(AnswerAttention):
    """The plain products of queries and keys: Atlas's `scores`."""

    def _score(self, logits, value):
        return logits


KINDS = {"scores": Logits, "probs": Probabilities, "norms": AnswerAttention}


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@torch.no_grad()
def read_rows(reader, prompts, labels, kind: str, monkeypatch) -> tuple[Tensor, Tensor]:
    monkeypatch.setattr("lightning_modules.readers.fusion_in_decoder.AnswerAttention", KINDS[kind])
    output = reader.read_prompts(prompts, labels)
    return output.row_scores, output.row_mask


def test_row_scores_are_the_mean_over_layers_of_atlas_storages(
    reader, prompts, labels, goldens, kind, monkeypatch
):
    rows, mask = read_rows(reader, prompts, labels, kind, monkeypatch)
    names = {"scores": "score_storage", "probs": "prob_storage", "norms": "normalized_score_storage"}
    stored = goldens[f"storage.{names[kind]}"].mean(dim=0).unflatten(-1, (5, 24)).movedim(2, 1).flatten(0, 1)
    real = prompts.attention_mask[:, None] & mask[..., None]
    torch.testing.assert_close(rows[real], stored[real], rtol=1e-5, atol=1e-6 if kind == "scores" else 1e-8)


@pytest.mark.parametrize("aggregate", ["top5", "top10", "top20", "nosep", "first", "sum", "avg", "woquery"])
def test_aggregates(reader, prompts, labels, goldens, kind, aggregate, monkeypatch):
    rows, mask = read_rows(reader, prompts, labels, kind, monkeypatch)
    counted, how, divisor = goldens["in.reader_mask"], "sum", ATLAS_PASSAGE_LENGTH
    if aggregate in ("avg", "first"):
        how, divisor = {"avg": "mean", "first": "first"}[aggregate], 1
    elif aggregate.startswith("top"):
        # Atlas lets padding, with score 0, into the highest scores
        how, divisor, counted = aggregate, 1, torch.ones_like(counted)
        rows = rows.masked_fill(~prompts.attention_mask[:, None], 0.0)
    elif aggregate == "nosep":  # in spite of its name the end-of-sequence tokens alone
        counted = goldens["in.reader_ids"] == 1
    elif aggregate == "woquery":
        is_query = torch.zeros_like(counted)
        is_query[..., : goldens["in.mask_query"].shape[1]] = goldens["in.mask_query"][:, None]
        counted = counted & ~is_query
    batch = make_prompts(goldens, counted)
    scores = PASSAGE_SCORES[how](rows, mask, PassageTokens.of(batch, TokenScope.PROMPT))
    # logits of both signs cancel, so that their sums keep fewer digits
    atol = 1e-7 if kind == "scores" else 1e-9
    torch.testing.assert_close(scores / divisor, goldens[f"agg.{kind}{aggregate}"], rtol=1e-5, atol=atol)


UNUSED = torch.full((2, 5), 0.2).log()
"""p_RETR, which plays no part in these scores."""


@torch.no_grad()
def teacher_scores(reader, prompts, labels, objective: str) -> Tensor:
    if objective == "adist":
        atlas = ADist("atlas", token_scope="prompt")
        return atlas.passage_scores(reader.read_prompts(prompts, labels), UNUSED)
    if objective == "ppmean":
        alone = reader.prompt_likelihoods(prompts, labels, Shown.EACH_ALONE)
        return PDist("atlas").passage_scores(alone, UNUSED)
    without = reader.prompt_likelihoods(prompts, labels, Shown.EACH_LEFT_OUT)
    assert without.left_out
    return LOOP("atlas").passage_scores(without, UNUSED)


@pytest.mark.parametrize("objective", ["adist", "ppmean", "loop"])
def test_teacher_scores(reader, prompts, labels, goldens, objective):
    scores = teacher_scores(reader, prompts, labels, objective)
    torch.testing.assert_close(scores, goldens[f"gold.{objective}"], rtol=1e-5, atol=0)


def retriever_distribution(goldens, temperature: float) -> tuple[Tensor, Tensor]:
    """log p_RETR by way of `log_p_retr`, and the retriever's scores that gradients are taken of.

    The stored scores are already divided by sqrt(dim), so embeddings of one dimension give them back.
    """
    scores = goldens["in.retriever_score"].clone().requires_grad_()
    log_p = log_p_retr(torch.ones(2, 1), scores[..., None], temperature, divide_by_sqrt_dim=True)
    return log_p, scores


@pytest.mark.parametrize("objective", ["adist", "ppmean", "loop"])
@pytest.mark.parametrize(("name", "of_gold", "of_score"), TEMPERATURES)
@pytest.mark.parametrize("scores_from", ["goldens", "reader"])
def test_distillation(reader, prompts, labels, goldens, objective, name, of_gold, of_score, scores_from):
    gold, rtol = goldens[f"gold.{objective}"], 1e-5
    if scores_from == "reader":
        # scores / 0.01 before the exponential: a rounding of 1e-7 becomes one of 1e-4
        gold, rtol = teacher_scores(reader, prompts, labels, objective), 2e-4
    log_p, scores = retriever_distribution(goldens, of_score)
    target = ADist(attention_temperature=of_gold).log_p_of_scores(gold)
    loss = kl_divergence(target, log_p, "atlas")
    loss.backward()
    got = {
        "gold_dist": target.exp(),
        "score_logdist": log_p,
        "loss": loss,
        "grad_retriever_score": scores.grad,
    }
    for key, value in got.items():
        expected = goldens[f"kld.{objective}.{name}.{key}"]
        torch.testing.assert_close(value, expected, rtol=rtol, atol=rtol / 100)


@pytest.mark.parametrize(("name", "of_gold", "of_score"), EMDR_TEMPERATURES)
def test_emdr2(labels, goldens, name, of_gold, of_score):
    """From Atlas's own logits, so that it is the objective that is compared."""
    repeated = repeat(labels, 5)
    log_probs = log_probs_of(goldens["emdr.logits"], repeated.ids.clamp(min=0), of_gold).view(2, 5, -1)
    log_p, scores = retriever_distribution(goldens, of_score)
    loss = marginal_likelihood_loss(log_probs, labels.label_mask, log_p, "atlas")
    loss.backward()
    torch.testing.assert_close(loss, goldens[f"emdr.{name}.loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(scores.grad, goldens[f"emdr.{name}.grad_retriever_score"], **TOLERANCE)


@pytest.mark.parametrize(("name", "of_gold", "of_score"), EMDR_TEMPERATURES)
def test_emdr2_from_the_reader(reader, prompts, labels, goldens, name, of_gold, of_score):
    """Logits differ from Atlas's in the last bits of float32, which a temperature of 0.1 makes ten of."""
    with torch.no_grad():
        alone = reader.prompt_likelihoods(prompts, labels, Shown.EACH_ALONE, temperature=of_gold)
    log_p, scores = retriever_distribution(goldens, of_score)
    loss = marginal_likelihood_loss(alone.log_probs, alone.mask, log_p, "atlas")
    loss.backward()
    torch.testing.assert_close(loss, goldens[f"emdr.{name}.loss"], rtol=1e-5, atol=0)
    golden = goldens[f"emdr.{name}.grad_retriever_score"]
    torch.testing.assert_close(scores.grad, golden, rtol=1e-4, atol=1e-7)
