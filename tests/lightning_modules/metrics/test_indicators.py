"""The indicators against NumPy and SciPy, one unit at a time, and two processes against one."""

import doctest
import math
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, distributed, multiprocessing

from lightning_modules.metrics import indicators
from lightning_modules.metrics.indicators import (
    AttentionNormalization,
    Indicator,
    indicator_units,
    instance_means,
    masked_spearman,
    normalize_attention,
    percentile_mask,
    token_similarity,
    vocabulary_similarity,
)
from tests.several_processes import forking


def scipy_indicator(
    attention: np.ndarray, similarity: np.ndarray, percentile: float
) -> tuple[float, float, float]:
    """Attention, Spearman and lift for the tokens of one unit, straight from the definition."""
    if len(similarity) == 0:
        return math.nan, math.nan, math.nan
    similarity = similarity.astype(np.float64)
    at_percentile = np.percentile(similarity, percentile)
    # NumPy's interpolation rounds too: a token at the percentile is at it
    selected = (similarity > at_percentile) | np.isclose(similarity, at_percentile, rtol=0, atol=1e-12)
    total = float(attention.astype(np.float64).sum())
    shares = [value / total if total else math.nan for value in attention[selected].tolist()]
    lift = sum(shares) / len(shares) * len(selected)
    attention, similarity = attention[selected].astype(np.float64), similarity[selected]
    if len(attention) < 2 or np.ptp(attention) == 0 or np.ptp(similarity) == 0:
        return attention.mean(), math.nan, lift
    return attention.mean(), stats.spearmanr(attention, similarity).statistic, lift


def random_units(seed: int, units: int = 12, tokens: int = 60) -> tuple[Tensor, Tensor, Tensor]:
    """Attention, similarity and ragged masks: with ties, without, constant; empty and one-token units."""
    rng = np.random.default_rng(seed)
    levels = rng.choice([2, 5, 20, 10**6], (2, units, 1))
    attention, similarity = np.floor(rng.random((2, units, tokens)) * levels) / levels
    attention[rng.random(units) < 0.1] = 0.25
    similarity[rng.random(units) < 0.1] = -0.7
    mask = rng.random((units, tokens)) < rng.random((units, 1))
    mask[0], mask[1] = False, np.arange(tokens) == 3
    attention[~mask], similarity[~mask] = 1e3, 1e3
    as_float = [torch.tensor(x, dtype=torch.float32) for x in (attention, 2 * similarity - 1)]
    return *as_float, torch.tensor(mask)


def each_unit(*batches: Tensor) -> Iterator[tuple[np.ndarray, ...]]:
    """The tokens of one unit after another; the last batch is the mask."""
    *values, masks = (batch.numpy() for batch in batches)
    for unit, mask in enumerate(masks):
        yield tuple(value[unit][mask] for value in values)


class TestIndicatorUnits:
    @pytest.mark.parametrize("percentile", [0, 50, 90, 95, 97.5, 100])
    @pytest.mark.parametrize("seed", range(8))
    def test_equals_scipy(self, seed, percentile):
        attention, similarity, mask = random_units(seed)
        expected = [scipy_indicator(*unit, percentile) for unit in each_unit(attention, similarity, mask)]
        units = indicator_units(attention, similarity, mask, percentile)
        np.testing.assert_allclose(units.attention, [mean for mean, _, _ in expected], atol=1e-5)
        np.testing.assert_allclose(units.spearman, [rho for _, rho, _ in expected], atol=1e-5)
        np.testing.assert_allclose(units.lift, [lift for _, _, lift in expected], rtol=1e-5)

    def test_the_data_have_defined_and_undefined_units(self):
        undefined = torch.cat(
            [indicator_units(*random_units(seed), 90).spearman.isnan() for seed in range(8)]
        )
        assert 0.2 < undefined.float().mean() < 0.8

    def test_long_passages_stay_exact(self):
        attention, similarity, mask = random_units(seed=1, units=4, tokens=4000)
        expected = [scipy_indicator(*unit, 50) for unit in each_unit(attention, similarity, mask)]
        spearman = indicator_units(attention, similarity, mask, 50).spearman
        np.testing.assert_allclose(spearman, [rho for _, rho, _ in expected], atol=1e-6)

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    @pytest.mark.parametrize("which", ["attention", "similarity"])
    def test_a_token_without_number_makes_its_unit_undefined(self, which, value):
        rows = {"attention": torch.rand(3, 20), "similarity": torch.rand(3, 20)}
        rows[which][1, 4] = value
        for part in indicator_units(**rows, mask=torch.ones(3, 20, dtype=torch.bool), percentile=50):
            assert part.isnan().tolist() == [False, True, False]

    def test_what_lies_outside_the_mask_does_not_matter(self):
        attention, similarity, mask = random_units(seed=2)
        parts = indicator_units(attention, similarity, mask, 90)
        garbage = [x.masked_fill(~mask, torch.nan) for x in (attention, similarity)]
        for part, other in zip(parts, indicator_units(*garbage, mask, 90), strict=True):
            torch.testing.assert_close(part, other, equal_nan=True)

    def test_transposed_input_does_not_warn(self):
        attention, similarity, mask = (x.T.contiguous().T for x in random_units(seed=2))
        for part, other in zip(
            indicator_units(attention, similarity, mask, 90),
            indicator_units(*random_units(seed=2), 90),
            strict=True,
        ):
            torch.testing.assert_close(part, other, equal_nan=True)


class TestLift:
    @pytest.mark.parametrize("how", list(AttentionNormalization))
    @pytest.mark.parametrize("percentile", [0, 90, 95])
    def test_is_the_same_however_attention_is_normalised(self, how, percentile):
        """Mean attention over M_p where it sums to 1 over the passage, times the number of tokens."""
        scores, similarity, mask = random_units(seed=4)
        attention = normalize_attention(scores, mask, how, prompt_total=torch.rand(12) * 90 + 10)
        lift = indicator_units(attention, similarity, mask, percentile).lift
        shares = normalize_attention(scores, mask, AttentionNormalization.PASSAGE)
        expected = indicator_units(shares, similarity, mask, percentile).attention * mask.sum(dim=1)
        assert expected.isfinite().sum() > 6
        torch.testing.assert_close(lift, expected, equal_nan=True)

    def test_even_attention_has_a_lift_of_1_whatever_the_length(self):
        mask = torch.arange(80) < torch.tensor([[5], [20], [80]])
        attention = normalize_attention(torch.full((3, 80), 0.3), mask, AttentionNormalization.PASSAGE)
        units = indicator_units(attention, torch.rand(3, 80), mask, 90)
        torch.testing.assert_close(units.lift, torch.ones(3))
        torch.testing.assert_close(units.attention, torch.tensor([1 / 5, 1 / 20, 1 / 80]))

    def test_a_passage_without_any_attention_has_none(self):
        units = indicator_units(torch.zeros(1, 9), torch.rand(1, 9), torch.ones(1, 9).bool(), 50)
        assert units.attention == 0
        assert units.lift.isnan().all()


class TestPercentileMask:
    @pytest.mark.parametrize("percentile", [10, 30, 55, 70, 90, 95])
    def test_tokens_at_the_percentile_are_kept(self, percentile):
        """101 distinct values: the p-th percentile is the p-th of them exactly."""
        values = torch.linspace(-1, 1, 101).unsqueeze(0)
        selected = percentile_mask(values, torch.ones(1, 101, dtype=torch.bool), percentile)
        assert selected[0].nonzero().flatten().tolist() == list(range(percentile, 101))

    def test_all_tokens_tied_at_the_percentile_are_kept(self):
        values = torch.tensor([[0.1] * 15 + [0.3] * 5])
        full = torch.ones(1, 20, dtype=torch.bool)
        assert percentile_mask(values, full, 90).sum() == 5
        assert percentile_mask(values, full, 50).sum() == 20

    def test_an_empty_mask_selects_nothing(self):
        assert not percentile_mask(torch.rand(2, 4), torch.zeros(2, 4, dtype=torch.bool), 90).any()


class TestMaskedSpearman:
    def test_perfect_orders(self):
        first = torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 2)
        second = torch.tensor([[1.0, 10.0, 100.0, 1000.0], [-1.0, -2.0, -3.0, -4.0]])
        assert masked_spearman(first, second, torch.ones(2, 4, dtype=torch.bool)).tolist() == [1.0, -1.0]

    def test_constant_rows_and_single_tokens_are_undefined(self):
        first, second = torch.tensor([[1 / 3] * 7, [1.0] * 7]), torch.rand(2, 7)
        mask = torch.ones(2, 7, dtype=torch.bool)
        mask[1, 1:] = False
        assert masked_spearman(first, second, mask).isnan().all()
        assert masked_spearman(second, first, mask).isnan().all()


def loop_similarity(tokens: np.ndarray, targets: np.ndarray) -> list[float]:
    """Highest cosine of each token, one pair at a time."""
    if len(targets) == 0:
        return [math.nan] * len(tokens)
    cosines = [
        [float(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b)) for b in targets.astype(np.float64)]
        for a in tokens.astype(np.float64)
    ]
    return [max(row) for row in cosines]


class TestSimilarity:
    @pytest.fixture
    def embeddings(self):
        rng = np.random.default_rng(5)
        tokens, targets = rng.standard_normal((4, 9, 6)), rng.standard_normal((4, 3, 6))
        target_mask = torch.tensor([[True] * 3, [True, False, True], [False] * 3, [False, True, False]])
        return torch.tensor(tokens).float(), torch.tensor(targets).float(), target_mask

    def test_is_the_highest_cosine(self, embeddings):
        tokens, targets, target_mask = embeddings
        expected = [
            loop_similarity(tokens[unit].numpy(), targets[unit][target_mask[unit]].numpy())
            for unit in range(4)
        ]
        similarity = token_similarity(*embeddings)
        assert similarity.dtype == torch.float32
        np.testing.assert_allclose(similarity, expected, atol=1e-6)

    def test_autocast_does_not_cost_precision(self, embeddings):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            similarity = token_similarity(*embeddings)
        torch.testing.assert_close(similarity, token_similarity(*embeddings), equal_nan=True, rtol=0, atol=0)

    def test_a_batch_without_any_target_is_nan(self):
        similarity = token_similarity(torch.rand(2, 3, 4), torch.rand(2, 0, 4), torch.zeros(2, 0).bool())
        assert similarity.shape == (2, 3)
        assert similarity.isnan().all()

    def test_a_zero_embedding_is_similar_to_nothing(self):
        similarity = token_similarity(torch.zeros(1, 2, 4), torch.rand(1, 1, 4), torch.ones(1, 1).bool())
        assert similarity.tolist() == [[0.0, 0.0]]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_the_vocabulary_variant_is_the_same(self, dtype):
        generator = torch.Generator().manual_seed(3)
        embedding = torch.randn(50, 16, generator=generator).to(dtype)
        token_ids = torch.randint(50, (4, 30), generator=generator)
        target_ids = torch.randint(50, (4, 5), generator=generator)
        target_mask = torch.rand(4, 5, generator=generator) < 0.6
        target_mask[2] = False
        similarity = vocabulary_similarity(
            embedding, token_ids, target_ids.masked_fill(~target_mask, -100), target_mask
        )
        expected = token_similarity(embedding[token_ids], embedding[target_ids], target_mask)
        torch.testing.assert_close(similarity, expected, equal_nan=True, rtol=0, atol=1e-6)

    def test_equal_tokens_tie_to_the_last_bit(self):
        embedding = torch.randn(300, 33, generator=torch.Generator().manual_seed(3))
        token_ids = torch.arange(300).repeat(3).unsqueeze(0)
        target_ids = torch.arange(40, 60).unsqueeze(0)
        similarity = vocabulary_similarity(embedding, token_ids, target_ids, torch.ones(1, 20).bool())
        assert torch.equal(similarity[0, :300], similarity[0, 300:600])
        assert torch.equal(similarity[0, :300], similarity[0, 600:])
        assert (similarity == 1.0).nonzero()[:20, 1].tolist() == list(range(40, 60))


class TestNormalizeAttention:
    SCORES = torch.tensor([[1.0, 3.0, 9.0], [2.0, 2.0, 4.0]])
    MASK = torch.tensor([[True, True, False], [True, True, True]])

    @pytest.mark.parametrize(
        ("how", "expected"),
        [
            (AttentionNormalization.PASSAGE, [[0.25, 0.75, 0.0], [0.25, 0.25, 0.5]]),
            (AttentionNormalization.PROMPT, [[0.05, 0.15, 0.0], [0.2, 0.2, 0.4]]),
            (AttentionNormalization.NONE, [[1.0, 3.0, 0.0], [2.0, 2.0, 4.0]]),
        ],
    )
    def test_divides_by_the_passage_by_the_prompt_or_by_nothing(self, how, expected):
        attention = normalize_attention(self.SCORES, self.MASK, how, prompt_total=torch.tensor([20.0, 10.0]))
        torch.testing.assert_close(attention, torch.tensor(expected))

    def test_a_unit_without_any_attention_is_undefined(self):
        attention = normalize_attention(torch.zeros(2, 3), self.MASK, AttentionNormalization.PASSAGE)
        assert attention[self.MASK].isnan().all()
        for part in indicator_units(attention, torch.rand(2, 3), self.MASK, 50):
            assert part.isnan().all()

    def test_the_prompt_needs_its_total(self):
        with pytest.raises(ValueError, match="prompt_total"):
            normalize_attention(self.SCORES, self.MASK, AttentionNormalization.PROMPT)


class TestInstanceMeans:
    def test_equals_the_loop(self):
        rng = np.random.default_rng(0)
        values = rng.standard_normal(50).astype(np.float32)
        values[rng.random(50) < 0.3] = np.nan
        instance_of_unit = rng.integers(0, 12, 50)
        instance_of_unit[instance_of_unit == 4] = 5
        values[instance_of_unit == 7] = np.nan
        means, num_undefined = instance_means(torch.tensor(values), torch.tensor(instance_of_unit), 13)
        for instance, mean in enumerate(means.tolist()):
            defined = [v for v, i in zip(values, instance_of_unit, strict=True) if i == instance and v == v]
            assert mean == pytest.approx(np.mean(defined) if defined else math.nan, abs=1e-6, nan_ok=True)
        assert means.isnan().nonzero().flatten().tolist() == [4, 7, 12]
        assert num_undefined == np.isnan(values).sum()


def random_batch(seed: int, num_instances: int = 3, num_passages: int = 4) -> dict[str, Tensor | int]:
    """Whole instances, as `Indicator.update` takes them."""
    attention, similarity, mask = random_units(seed, units=num_instances * num_passages)
    return {
        "attention": attention,
        "similarity": similarity,
        "mask": mask,
        "instance_of_unit": torch.arange(num_instances).repeat_interleave(num_passages),
        "num_instances": num_instances,
    }


def two_processes(rank: int, folder: str) -> None:
    """One of two processes: the first sees batches 0 and 1, or all; the second batch 2, or none."""
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    for name, batches in {"uneven": [(0, 1), (2,)], "one idle": [(0, 1, 2), ()]}.items():
        indicator = Indicator("indicator1")
        for seed in batches[rank]:
            indicator.update(**random_batch(seed, num_instances=2 + seed))
        values, summary = indicator.values(), indicator.compute()
        torch.save((summary, values), Path(folder) / f"{name} {rank}.pt")
    distributed.destroy_process_group()


class TestIndicator:
    def test_summarises_the_instances_of_all_batches(self):
        indicator = Indicator("indicator2", percentiles=(90,))
        means, rhos, lifts, num_undefined = [], [], [], 0
        for seed in range(4):
            batch = random_batch(seed)
            indicator.update(**batch)
            units = [
                scipy_indicator(*unit, 90)
                for unit in each_unit(batch["attention"], batch["similarity"], batch["mask"])
            ]
            num_undefined += sum(math.isnan(rho) for _, rho, _ in units)
            with warnings.catch_warnings():  # NumPy's way to say that a slice is all NaN
                warnings.simplefilter("ignore", RuntimeWarning)
                by_instance = np.nanmean(np.array(units).reshape(3, 4, 3), axis=1)
            means.extend(by_instance[:, 0])
            rhos.extend(by_instance[:, 1])
            lifts.extend(by_instance[:, 2])
        expected = {
            "indicator2/attention_p90": np.nanmean(means),
            "indicator2/attention_p90_std": np.nanstd(means, ddof=1),
            "indicator2/spearman_p90": np.nanmean(rhos),
            "indicator2/spearman_p90_std": np.nanstd(rhos, ddof=1),
            "indicator2/lift_p90": np.nanmean(lifts),
            "indicator2/lift_p90_std": np.nanstd(lifts, ddof=1),
            "indicator2/undefined_p90": num_undefined,
            "indicator2/num_instances": 12,
        }
        summary = indicator.compute()
        assert {name: value.item() for name, value in summary.items()} == pytest.approx(expected, abs=1e-5)
        assert all(value.shape == () and value.dtype == torch.float32 for value in summary.values())
        np.testing.assert_allclose(indicator.values()["indicator2/spearman_p90"], rhos, atol=1e-5)
        np.testing.assert_allclose(indicator.values()["indicator2/lift_p90"], lifts, rtol=1e-5)

    def test_reports_both_percentiles_of_the_paper(self):
        parts = [f"{part}_p{p}" for p in (90, 95) for part in ("attention", "spearman", "lift")]
        names = {
            *parts,
            *(f"{part}_std" for part in parts),
            "undefined_p90",
            "undefined_p95",
            "num_instances",
        }
        assert set(Indicator("indicator1").compute()) == {f"indicator1/{name}" for name in names}

    def test_before_any_update_is_nan_without_warning(self):
        summary = Indicator("indicator1").compute()
        for name in ("undefined_p90", "undefined_p95", "num_instances"):
            assert summary.pop(f"indicator1/{name}") == 0
        assert all(value.isnan() and value.shape == () for value in summary.values())

    @pytest.mark.parametrize("percentiles", [(), (90, 90), (101,), (-1, 90)])
    def test_percentiles_that_cannot_be_are_refused(self, percentiles):
        with pytest.raises(ValueError, match="percentile"):
            Indicator("indicator1", percentiles)

    def test_two_processes_equal_one(self, tmp_path):
        started_by = forking().get_start_method()
        multiprocessing.start_processes(two_processes, (str(tmp_path),), nprocs=2, start_method=started_by)
        alone = Indicator("indicator1")
        for seed in range(3):
            alone.update(**random_batch(seed, num_instances=2 + seed))
        for name in ("uneven 0", "uneven 1", "one idle 0", "one idle 1"):
            summary, values = torch.load(tmp_path / f"{name}.pt", weights_only=True)
            torch.testing.assert_close(summary, alone.compute(), equal_nan=True)
            torch.testing.assert_close(values, alone.values(), equal_nan=True)


def test_docstring_examples():
    assert doctest.testmod(indicators).failed == 0
