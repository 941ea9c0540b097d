"""The token scores of perplexity distillation against masking tokens for real."""

import pytest
import torch

from datamodules.batches import Batch
from datamodules.prompts import Shown
from lightning_modules.metrics.units import passage_units
from lightning_modules.readers.base import TokenEmbeddings
from lightning_modules.readers.outputs import AttentionOutput, mean_log_prob
from lightning_modules.token_drops import TokenDrops, first_order_drops
from tests.tiny_models import tiny_reader_of, toy_passages, toy_questions

QUESTIONS = toy_questions()[:2]
PASSAGES = [[toy_passages()[j] for j in (i, i + 12)] for i in range(2)]
BATCH = Batch(QUESTIONS, PASSAGES, ["Paris", "Tokyo"])


@pytest.fixture(params=["concatenated", "independent", "fusion_in_decoder"])
def reader(request):
    return tiny_reader_of(request.param)


class Fade:
    """Multiplies the input embedding of one token of one prompt, as a forward hook."""

    def __init__(self, reader, prompts, row: int, token: int, factor: float) -> None:
        model = reader.model
        self.module = (model.encoder if hasattr(model, "encoder") else model).get_input_embeddings()
        self.shape, self.row, self.token, self.factor = prompts.input_ids.shape, row, token, factor

    def __call__(self, module, args, output):
        if output.shape[:2] == self.shape:
            output = output.clone()
            output[self.row, self.token] *= self.factor
        return output

    def __enter__(self):
        self.handle = self.module.register_forward_hook(self)

    def __exit__(self, *exception):
        self.handle.remove()


@torch.no_grad()
def likelihoods(reader):
    found = reader.answer_likelihoods(BATCH, Shown.EACH_ALONE)
    return mean_log_prob(found.log_probs.double(), found.mask).flatten()


def test_agree_with_masking_to_first_order(reader):
    """Fading a token towards its mask loses its share of the drop; far from it the likelihood bends."""
    output = reader.read_drops(BATCH, "gradient")
    reader.double()
    whole, slopes, faded, row = likelihoods(reader), [], [], 1
    tokens = output.prompts.attention_mask[row].nonzero()[:, 0].tolist()
    for token in tokens:
        at = {}
        for factor in (1.01, 0.99, 0.8):
            with Fade(reader, output.prompts, row, token, factor):
                at[factor] = float(likelihoods(reader)[row])
        slopes.append((at[1.01] - at[0.99]) / 0.02)
        faded.append(float(whole[row]) - at[0.8])
    slopes, faded = torch.tensor(slopes), torch.tensor(faded)
    drops = output.token_scores[row][tokens]
    torch.testing.assert_close(drops, slopes.clamp(min=0.0), rtol=0.02, atol=1e-3)
    large = faded.abs() > faded.abs().median()
    assert ((drops > 0) == (faded > 0))[large].float().mean() > 0.8
    assert 0.2 < (drops > 0).float().mean() < 0.8


@pytest.mark.parametrize("how", ["masked", "masked_prompt"])
def test_masking_equals_masking_one_token_in_a_plain_pass(reader, how):
    output = reader.read_drops(BATCH, how)
    reader.double()
    whole, prompts = likelihoods(reader), output.prompts
    for row, real in enumerate(prompts.content_mask if how == "masked" else prompts.attention_mask):
        for token in real.nonzero()[:, 0].tolist():
            with Fade(reader, output.prompts, row, token, 0.0):
                lost = float(whole[row] - likelihoods(reader)[row])
            assert output.token_scores[row, token].item() == pytest.approx(max(lost, 0.0), abs=2e-5)
    found = output.token_scores[output.prompts.content_mask]
    assert 0.2 < (found > 0).float().mean() < 0.8


def test_what_stands_around_the_passages_has_no_score_where_they_alone_are_masked(reader):
    output = reader.read_drops(BATCH, "masked")
    units = passage_units(output, reader)
    around = output.prompts.attention_mask & ~output.prompts.content_mask
    assert around.any()
    assert output.token_scores[around].isnan().all()
    assert units.prompt_total.isnan().all(), "it is no total of the prompt"
    whole = passage_units(reader.read_drops(BATCH, "masked_prompt"), reader)
    torch.testing.assert_close(units.attention, whole.attention, atol=1e-5, rtol=1e-4)
    assert (whole.prompt_total > 0).all()


@pytest.mark.parametrize("how", list(TokenDrops))
def test_all_ways_are_passes_over_the_same_prompts(reader, how):
    """All that the indicators need, whatever the similarities are computed from."""
    output = reader.read_drops(BATCH, how)
    for embeddings in TokenEmbeddings:
        units = passage_units(output, reader, embeddings)
        torch.testing.assert_close(units.attention.sum(dim=1), torch.ones(4))
        assert units.answer_similarity[units.mask].isfinite().all()


@pytest.mark.parametrize("how", list(TokenDrops))
def test_leave_no_trace(reader, how):
    reader.train()
    with torch.inference_mode():
        output = reader.read_drops(BATCH, how)
    assert not output.token_scores.requires_grad
    assert not output.token_scores[~output.prompts.attention_mask].any()
    assert (output.token_scores[output.prompts.content_mask] >= 0).all()
    assert not isinstance(output, AttentionOutput), "drops have no rows"
    assert all(parameter.grad is None for parameter in reader.parameters())
    assert reader.training


def test_drop_is_the_gradient_times_what_is_lost():
    gradients = torch.tensor([[[1.0, 2.0], [-1.0, 0.0]]])
    embeddings = torch.tensor([[[3.0, 1.0], [1.0, 1.0]]])
    assert first_order_drops(gradients, embeddings).tolist() == [[5.0, 0.0]]
    assert first_order_drops(gradients, embeddings - torch.tensor([4.0, 1.0])).tolist() == [[0.0, 3.0]]
