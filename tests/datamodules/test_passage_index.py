"""Search against brute force; what is saved is loaded whole, and for the same embeddings only."""

import doctest
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from datamodules import passage_index
from datamodules.errors import DataError
from datamodules.passage_index import PassageIndex, StaleIndexError
from datamodules.sealed_files import read_json, write_json
from experiments.checks import check_config
from experiments.command_line import run_command
from experiments.config import load_config


def random_vectors(count: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def brute_force(embeddings: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows of the best k, one query and one passage at a time."""
    all_scores, all_rows = [], []
    for query in queries.astype(np.float64):
        scored = sorted(((-float(query @ row), i) for i, row in enumerate(embeddings.astype(np.float64))))[:k]
        all_scores.append([-score for score, _ in scored])
        all_rows.append([row for _, row in scored])
    return np.array(all_scores), np.array(all_rows)


class TestSearch:
    @pytest.mark.parametrize("num_queries", [4, passage_index._QUERIES_FOR_A_PRODUCT])
    @pytest.mark.parametrize("k", [1, 5, 30])
    def test_flat_is_brute_force(self, k, num_queries, monkeypatch):
        embeddings, queries = random_vectors(30, 8), random_vectors(num_queries, 8, seed=1)
        index = PassageIndex.build(embeddings)
        monkeypatch.setattr(passage_index, "_ROWS_A_CHUNK", 7)
        scores, rows = index.search(queries, k)
        expected_scores, expected_rows = brute_force(embeddings, queries, k)
        np.testing.assert_array_equal(rows, expected_rows)
        np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-5)
        assert (scores.dtype, rows.dtype) == (np.float32, np.int64)

    @pytest.mark.parametrize("num_queries", [4, passage_index._QUERIES_FOR_A_PRODUCT])
    def test_mixed_precision_around_it_leaves_it_exact(self, num_queries):
        """A training step retrieves inside it; products in bfloat16 would make passages tie."""
        index = PassageIndex.build(random_vectors(2000, 8))
        queries = random_vectors(num_queries, 8, seed=1)
        expected_scores, expected_rows = index.search(queries, 20)
        with torch.autocast("cpu", torch.bfloat16):
            scores, rows = index.search(queries, 20)
        np.testing.assert_array_equal(rows, expected_rows)
        np.testing.assert_array_equal(scores, expected_scores)

    def test_only_an_exact_one_gives_its_embeddings_back(self):
        embeddings, rows = random_vectors(30, 8), np.array([3, 29, 0])
        found = PassageIndex.build(embeddings).embeddings(rows)
        np.testing.assert_array_equal(found, embeddings[rows])
        assert PassageIndex.build(embeddings, "SQ8").embeddings(rows) is None

    def test_similarity_is_the_inner_product_and_not_the_distance(self):
        embeddings = np.array([[1, 0], [10, 10]], dtype=np.float32)
        _, rows = PassageIndex.build(embeddings).search(np.array([[1, 0]], dtype=np.float32), k=1)
        assert rows.tolist() == [[1]]

    @pytest.mark.parametrize("num_queries", [2, passage_index._QUERIES_FOR_A_PRODUCT])
    def test_among_equal_scores_the_lower_row_comes_first(self, num_queries):
        index = PassageIndex.build(np.ones((6, 3), dtype=np.float32))
        scores, rows = index.search(np.ones((num_queries, 3), dtype=np.float32), k=6)
        assert rows.tolist() == [[0, 1, 2, 3, 4, 5]] * num_queries
        assert (scores == 3).all()

    def test_no_queries_have_no_results(self):
        scores, rows = PassageIndex.build(random_vectors(5, 3)).search(random_vectors(0, 3), k=2)
        assert scores.shape == rows.shape == (0, 2)

    @pytest.mark.parametrize("k", [0, -1, 6])
    def test_k_that_cannot_be_is_refused(self, k):
        with pytest.raises(ValueError, match=f"k = {k} passages from an index of 5"):
            PassageIndex.build(random_vectors(5, 3)).search(random_vectors(1, 3), k)

    def test_queries_of_another_dimension_are_refused(self):
        with pytest.raises(ValueError, match="queries have 4 dimensions, the index has 3"):
            PassageIndex.build(random_vectors(5, 3)).search(random_vectors(1, 4), k=1)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_queries_that_are_not_finite_are_refused(self, value):
        queries = np.full((1, 3), value, dtype=np.float32)
        with pytest.raises(ValueError, match="queries' embeddings hold NaN or infinity"):
            PassageIndex.build(random_vectors(5, 3)).search(queries, k=1)


class TestBuild:
    def test_reads_a_memory_mapped_half_precision_file_in_chunks(self, tmp_path, monkeypatch):
        monkeypatch.setattr(passage_index, "_ROWS_A_CHUNK", 7)
        np.save(tmp_path / "embeddings.npy", random_vectors(30, 8).astype(np.float16))
        embeddings, queries = (
            np.load(tmp_path / "embeddings.npy", mmap_mode="r"),
            random_vectors(4, 8, seed=1),
        )
        index = PassageIndex.build(embeddings)
        assert len(index) == 30
        np.testing.assert_array_equal(index.search(queries, 5)[1], brute_force(embeddings, queries, 5)[1])

    @pytest.mark.parametrize("factory", ["IVF8,Flat", "PCA12,IVF8,Flat", "IVF8,SQ8"])
    def test_approximate_indices_find_most_and_all_with_enough_probes(self, factory):
        embeddings, queries = random_vectors(400, 16), random_vectors(20, 16, seed=1)
        _, exact = brute_force(embeddings, queries, 10)

        def recall(num_probes: int) -> float:
            _, rows = PassageIndex.build(embeddings, factory, num_probes=num_probes).search(queries, 10)
            return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, exact, strict=True)])

        few, many = recall(1), recall(8)
        assert few < many
        assert many > (0.5 if "PCA" in factory else 0.95)

    def test_graph_index_finds_most(self):
        embeddings, queries = random_vectors(400, 16), random_vectors(20, 16, seed=1)
        _, rows = PassageIndex.build(embeddings, "HNSW16").search(queries, 10)
        _, exact = brute_force(embeddings, queries, 10)
        assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, exact, strict=True)]) > 0.8

    def test_too_few_passages_in_the_probed_cells_widens_the_search(self):
        embeddings, queries = random_vectors(200, 8), random_vectors(5, 8, seed=1)
        index = PassageIndex.build(embeddings, "IVF20,Flat", num_probes=1)
        _, narrow = index.search(queries, 1)
        _, rows = index.search(queries, 100)
        np.testing.assert_array_equal(rows, brute_force(embeddings, queries, 100)[1])
        np.testing.assert_array_equal(index.search(queries, 1)[1], narrow)

    def test_trains_on_a_seeded_sample(self):
        embeddings, queries = random_vectors(400, 8), random_vectors(20, 8, seed=1)

        def scores(num_train: int, seed: int) -> np.ndarray:
            return PassageIndex.build(embeddings, "SQ4", num_train=num_train, seed=seed).search(queries, 5)[0]

        np.testing.assert_array_equal(scores(10, seed=3), scores(10, seed=3))
        assert not np.array_equal(scores(10, seed=3), scores(10, seed=4))
        np.testing.assert_array_equal(scores(400, seed=3), scores(400, seed=4))

    def test_no_passages_are_refused(self):
        with pytest.raises(ValueError, match="no passages to index"):
            PassageIndex.build(random_vectors(0, 3))

    @pytest.mark.parametrize("factory", ["Flat", "IVF2,Flat"])
    @pytest.mark.parametrize(
        ("value", "complaint"),
        [(np.nan, "row 11 holds NaN"), (-np.inf, "row 11 holds NaN or inf"), (0.0, "row 11 is all zeros")],
    )
    def test_embeddings_that_cannot_be_are_refused(self, factory, value, complaint, monkeypatch):
        monkeypatch.setattr(passage_index, "_ROWS_A_CHUNK", 4)
        embeddings = random_vectors(100, 3)
        embeddings[11] = value
        with pytest.raises(ValueError, match=complaint):
            PassageIndex.build(embeddings, factory)

    @pytest.mark.parametrize(
        ("factory", "complaint"),
        [
            ("Flatt", "cannot make an index 'Flatt' of 3 dimensions: could not parse index string Flatt"),
            ("", "cannot make an index ''"),
            ("LSH", "cannot make an index 'LSH'"),
            ("PQ2x4", "index 'PQ2x4'.*multiple of the number of subquantizers"),
            ("IVF64,Flat", "cannot put 20 passages.*'IVF64,Flat': Number of training points"),
        ],
    )
    def test_factories_that_do_not_fit_are_refused_by_name(self, factory, complaint):
        with pytest.raises(ValueError, match=complaint):
            PassageIndex.build(random_vectors(20, 3), factory)

    def test_searching_no_cells_is_refused(self):
        with pytest.raises(ValueError, match="num_probes is 0"):
            PassageIndex.build(random_vectors(20, 3), "IVF2,Flat", num_probes=0)


class TestSaveAndLoad:
    @pytest.mark.parametrize("factory", ["Flat", "IVF8,Flat"])
    def test_round_trip(self, tmp_path, factory):
        queries = random_vectors(4, 8, seed=1)
        index = PassageIndex.build(random_vectors(300, 8), factory, num_probes=3)
        index.save(tmp_path / "made" / "index", "abc")
        loaded = PassageIndex.load(tmp_path / "made" / "index", "abc")
        for before, after in zip(index.search(queries, 5), loaded.search(queries, 5), strict=True):
            np.testing.assert_array_equal(before, after)
        assert (len(loaded), loaded.dim, loaded.factory) == (300, 8, factory)

    def test_meta_says_what_the_index_is(self, tmp_path):
        PassageIndex.build(random_vectors(6, 3)).save(tmp_path, "abc")
        meta = read_json(tmp_path / "meta.json")
        assert (tmp_path / meta.pop("file")).is_file()
        version = faiss.__version__
        assert meta == {
            "fingerprint": "abc",
            "dim": 3,
            "count": 6,
            "factory": "Flat",
            "faiss_version": version,
        }

    def test_saving_again_replaces_and_cleans_up(self, tmp_path):
        PassageIndex.build(random_vectors(6, 3)).save(tmp_path, "old")
        (tmp_path / "index-killed.faiss").write_bytes(b"half")
        PassageIndex.build(random_vectors(7, 3)).save(tmp_path, "new")
        assert len(PassageIndex.load(tmp_path, "new")) == 7
        assert len(list(tmp_path.iterdir())) == 2

    def test_a_stale_index_is_refused(self, tmp_path):
        PassageIndex.build(random_vectors(6, 3)).save(tmp_path, "of-the-old-retriever")
        with pytest.raises(StaleIndexError, match=r"stale.*of-the-old-r, .*of-the-new-r; build it again"):
            PassageIndex.load(tmp_path, "of-the-new-retriever")

    @pytest.mark.parametrize("step", ["write_index", "flush_to_disk", "seal", "commit"])
    def test_failing_half_way_leaves_the_old_index(self, tmp_path, monkeypatch, step):
        PassageIndex.build(random_vectors(6, 3)).save(tmp_path, "old")
        before = sorted(tmp_path.iterdir())

        def failing(*_: object) -> None:
            raise OSError("No space left on device")

        if step == "write_index":
            monkeypatch.setattr(faiss, step, failing)
        elif step == "commit":
            monkeypatch.setattr(Path, "replace", failing)
        else:
            monkeypatch.setattr(passage_index, step, failing)
        with pytest.raises(DataError, match=r"cannot be written .*No space left on device"):
            PassageIndex.build(random_vectors(7, 3)).save(tmp_path, "new")
        assert len(PassageIndex.load(tmp_path, "old")) == 6
        assert sorted(tmp_path.iterdir()) == before

    def test_killed_half_way_leaves_the_old_index(self, tmp_path, monkeypatch):
        PassageIndex.build(random_vectors(6, 3)).save(tmp_path, "old")

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            PassageIndex.build(random_vectors(7, 3)).save(tmp_path, "new")
        assert len(PassageIndex.load(tmp_path, "old")) == 6

    @pytest.mark.parametrize("folder", ["", "nowhere"])
    def test_a_folder_without_index_is_refused(self, tmp_path, folder):
        with pytest.raises(FileNotFoundError, match="no passage index in"):
            PassageIndex.load(tmp_path / folder, "abc")

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"fingerprint": "abc"}', "null"])
    def test_damaged_meta_is_refused(self, tmp_path, content):
        PassageIndex.build(random_vectors(6, 3)).save(tmp_path, "abc")
        (tmp_path / "meta.json").write_text(content)
        with pytest.raises(ValueError, match=r"meta.json is damaged.*the index is built again"):
            PassageIndex.load(tmp_path, "abc")

    @pytest.mark.parametrize(
        ("field", "value", "complaint"),
        [
            ("fingerprint", 7, "meta.json is damaged .*fingerprint"),
            ("count", 5, "holds 6 passages of 3 dimensions, .* says 5 of 3"),
            ("file", "index-gone.faiss", "index-gone.faiss is gone"),
        ],
    )
    def test_meta_that_does_not_fit_is_refused(self, tmp_path, field, value, complaint):
        PassageIndex.build(random_vectors(6, 3)).save(tmp_path, "abc")
        write_json(tmp_path / "meta.json", read_json(tmp_path / "meta.json") | {field: value})
        with pytest.raises((ValueError, FileNotFoundError), match=complaint):
            PassageIndex.load(tmp_path, "abc")

    @pytest.mark.parametrize("bytes_kept", [0, 3, 40, -4])
    def test_a_truncated_index_is_refused(self, tmp_path, bytes_kept):
        PassageIndex.build(random_vectors(6, 3)).save(tmp_path, "abc")
        (file,) = tmp_path.glob("index-*.faiss")
        file.write_bytes(file.read_bytes()[:bytes_kept])
        with pytest.raises(ValueError, match="is damaged"):
            PassageIndex.load(tmp_path, "abc")


class TestGpu:
    def test_without_the_gpu_faiss_the_extra_is_named(self, tmp_path, monkeypatch):
        monkeypatch.delattr(faiss, "StandardGpuResources", raising=False)
        with pytest.raises(ValueError, match=r"for the CPU only .*pip install -e '\.\[gpu\]'"):
            PassageIndex.build(random_vectors(6, 3), use_gpu=True)
        PassageIndex.build(random_vectors(6, 3)).save(tmp_path, "abc")
        with pytest.raises(ValueError, match=r"pip install -e '\.\[gpu\]'"):
            PassageIndex.load(tmp_path, "abc", use_gpu=True)

    def test_without_gpu_the_mend_is_named(self, monkeypatch):
        monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
        monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
        with pytest.raises(ValueError, match=r"FAISS sees no GPU .*use_gpu=False"):
            PassageIndex.build(random_vectors(6, 3), use_gpu=True)

    def test_moves_to_the_gpu_and_back_before_saving(self, tmp_path, monkeypatch):
        """The order of the moves, on a pretended GPU."""
        moves = []
        monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
        monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
        monkeypatch.setattr(
            faiss, "index_cpu_to_gpu", lambda _, device, index: moves.append("to gpu") or index, raising=False
        )
        monkeypatch.setattr(
            faiss, "index_gpu_to_cpu", lambda index: moves.append("to cpu") or index, raising=False
        )
        PassageIndex.build(random_vectors(6, 3), use_gpu=True).save(tmp_path, "abc")
        assert moves == ["to gpu", "to cpu"]
        assert len(PassageIndex.load(tmp_path, "abc", use_gpu=True)) == 6
        assert moves == ["to gpu", "to cpu", "to gpu"]


def test_without_faiss_the_extras_are_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"install -e '\.\[cpu\]', or '\.\[gpu\]'"):
        PassageIndex.build(random_vectors(6, 3))
    assert run_command(lambda: check_config(load_config("quickstart", ["trainer.accelerator=cpu"]))) == 2
    assert capsys.readouterr().err.startswith("error: FAISS, which finds the passages, cannot be imported")


def test_docstring_examples():
    assert doctest.testmod(passage_index).failed == 0
