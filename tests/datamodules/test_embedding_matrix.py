"""A matrix of embeddings: what was written is read, whatever was killed or damaged in between."""

import json
import os

import numpy as np
import pytest

from datamodules import embedding_matrix
from datamodules.embedding_matrix import EmbeddingMatrix, MatrixShape
from datamodules.errors import DataError
from datamodules.matrix_index import MatrixIndex
from datamodules.passage_index import PassageIndex, StaleIndexError, UnusableEmbeddingsError

SHAPE = MatrixShape("abc", num_passages=50, dim=6, rows_a_chunk=16)


def vectors(count=50, dim=6, seed=0):
    values = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return values.astype(np.float16).astype(np.float32)  # so that nothing is lost


def written(folder, embeddings=None, shape=SHAPE):
    embeddings = vectors() if embeddings is None else embeddings
    matrix = EmbeddingMatrix.begin(folder / "new", shape)
    for chunk in matrix.missing():
        rows = shape.chunks[chunk]
        matrix.write(chunk, embeddings[rows.start : rows.stop])
    return matrix.adopt(folder / "whole")


def read(matrix):
    return np.concatenate([block.copy() for _, block in matrix.blocks()])


def test_what_was_written_is_read(tmp_path):
    matrix = EmbeddingMatrix.begin(tmp_path / "new", SHAPE)
    assert (tmp_path / "new" / "embeddings.f16").stat().st_blocks * 512 >= SHAPE.num_bytes, "room is taken"
    for chunk in (2, 0):
        rows = SHAPE.chunks[chunk]
        matrix.write(chunk, vectors()[rows.start : rows.stop])
    again = EmbeddingMatrix.begin(tmp_path / "new", SHAPE)  # after a kill
    assert again.missing() == [1, 3]
    for chunk in again.missing():
        rows = SHAPE.chunks[chunk]
        again.write(chunk, vectors()[rows.start : rows.stop])
    again.adopt(tmp_path / "whole")
    found = EmbeddingMatrix.open(tmp_path / "whole", "abc")
    np.testing.assert_array_equal(read(found), vectors())
    numbers = np.array([49, 3, 3, 17])
    np.testing.assert_array_equal(found.rows(numbers), vectors()[numbers])
    assert not (tmp_path / "new").exists()


def test_one_of_another_shape_is_begun_anew(tmp_path):
    matrix = EmbeddingMatrix.begin(tmp_path, SHAPE)
    matrix.write(0, vectors()[:16])
    other = MatrixShape("xyz", num_passages=50, dim=6, rows_a_chunk=16)
    assert EmbeddingMatrix.begin(tmp_path, other).missing() == [0, 1, 2, 3]


def test_a_full_disk_shows_before_anything_is_encoded(tmp_path, monkeypatch):
    def full(descriptor, start, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    huge = MatrixShape("abc", num_passages=21_015_324, dim=768)
    with pytest.raises(DataError, match=r"32\.3 GB are needed, .* GB are free; free the disk, or set runs"):
        EmbeddingMatrix.begin(tmp_path / "new", huge)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6, 0.0])
def test_embeddings_of_no_use_are_refused(tmp_path, value):
    values = vectors()[16:32]
    values[3] = value
    with pytest.raises(UnusableEmbeddingsError, match="row 19"):
        EmbeddingMatrix.begin(tmp_path, SHAPE).write(1, values)
    assert EmbeddingMatrix.begin(tmp_path, SHAPE).missing() == [0, 1, 2, 3]


def test_what_is_not_whole_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no matrix"):
        EmbeddingMatrix.open(tmp_path, "abc")
    matrix = EmbeddingMatrix.begin(tmp_path / "new", SHAPE)
    matrix.write(0, vectors()[:16])
    with pytest.raises(DataError, match="3 of 4 parts were not written"):
        EmbeddingMatrix.open(tmp_path / "new", "abc")
    written(tmp_path)
    with pytest.raises(StaleIndexError, match="wanted are those with other"):
        EmbeddingMatrix.open(tmp_path / "whole", "other")
    for damage in ("{", "[]", json.dumps({"fingerprint": "abc"})):
        (tmp_path / "whole" / "matrix.json").write_text(damage)
        with pytest.raises(FileNotFoundError, match="there is no matrix"):
            EmbeddingMatrix.open(tmp_path / "whole", "abc")


def test_one_cut_short_is_refused(tmp_path):
    matrix = written(tmp_path)
    os.truncate(matrix.folder / "embeddings.f16", 500)
    with pytest.raises(DataError, match=r"it has 500 of 600 bytes.*delete the folder"):
        EmbeddingMatrix.open(matrix.folder, "abc")
    with pytest.raises(DataError, match="ends after 500 bytes"):
        read(matrix)  # one that was open
    os.truncate(matrix.folder / "chunks.bin", 9)
    with pytest.raises(DataError, match=r"chunks.bin is damaged"):
        EmbeddingMatrix.open(matrix.folder, "abc")


@pytest.mark.parametrize("name", ["embeddings.f16", "chunks.bin"])
@pytest.mark.parametrize("is_gone", [True, False])
def test_one_that_has_lost_its_room_is_begun_anew(tmp_path, name, is_gone):
    matrix = EmbeddingMatrix.begin(tmp_path, SHAPE)
    matrix.write(0, vectors()[:16])
    if is_gone:
        (tmp_path / name).unlink()
    else:
        os.truncate(tmp_path / name, 3)
    again = EmbeddingMatrix.begin(tmp_path, SHAPE)
    assert again.missing() == [0, 1, 2, 3]
    again.write(0, vectors()[:16])


def test_room_is_made_on_systems_without_fallocate(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.delattr(os, "fdatasync")
    monkeypatch.setattr(embedding_matrix, "_ZEROS", 100)
    matrix = EmbeddingMatrix.begin(tmp_path, SHAPE)
    assert matrix.file.stat().st_size == SHAPE.num_bytes
    matrix.write(3, vectors()[48:])
    assert matrix.missing() == [0, 1, 2]


def test_an_altered_byte_is_seen_as_it_is_read(tmp_path):
    matrix = written(tmp_path)
    path = matrix.folder / "embeddings.f16"
    content = bytearray(path.read_bytes())
    content[17 * 12] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged in rows 16 to 31; delete the folder"):
        read(EmbeddingMatrix.open(matrix.folder, "abc"))


@pytest.mark.parametrize("k", [1, 7, 50])
def test_search_is_that_of_an_index_in_memory(tmp_path, k):
    queries = vectors(count=5, seed=1)
    scores, rows = MatrixIndex(written(tmp_path)).search(queries, k)
    expected_scores, expected_rows = PassageIndex.build(vectors()).search(queries, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-6)
    assert (scores.dtype, rows.dtype) == (np.float32, np.int64)


def test_an_index_gives_its_embeddings_back(tmp_path):
    rows = np.array([4, 49, 0])
    np.testing.assert_array_equal(
        MatrixIndex(written(tmp_path)).embeddings(rows), vectors()[rows].astype(np.float16)
    )


def test_search_on_a_device_is_that_of_the_file(tmp_path, monkeypatch):
    matrix, queries = written(tmp_path), vectors(count=3, seed=2)
    expected = MatrixIndex(matrix).search(queries, 9)
    index = MatrixIndex(matrix)
    monkeypatch.setattr("datamodules.matrix_index.ROWS_ON_DEVICE", 20)
    index._keep_on_device()  # the CPU stands for it
    (matrix.folder / "embeddings.f16").unlink()
    for found, wanted in zip(index.search(queries, 9), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_what_cannot_be_searched_for_is_refused(tmp_path):
    index = MatrixIndex(written(tmp_path))
    assert len(index) == 50
    with pytest.raises(ValueError, match="cannot retrieve k = 51 passages from an index of 50"):
        index.search(vectors(1), 51)
    with pytest.raises(ValueError, match="queries have 5 dimensions, the index has 6"):
        index.search(vectors(1, dim=5), 1)
    with pytest.raises(UnusableEmbeddingsError, match="queries' embeddings hold NaN"):
        index.search(np.full((1, 6), np.nan, dtype=np.float32), 1)
    scores, rows = index.search(vectors(0), 4)
    assert scores.shape == rows.shape == (0, 4)


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("k", [1, 7, 40])
def test_of_equal_scores_the_lower_rows_are_found(tmp_path, monkeypatch, k, on_device):
    embeddings = np.random.default_rng(0).integers(1, 4, (50, 6)).astype(np.float32)
    queries = np.random.default_rng(1).integers(1, 4, (5, 6)).astype(np.float32)
    scores = queries @ embeddings.T
    expected = [sorted(range(50), key=lambda row: (-of_query[row], row))[:k] for of_query in scores]
    index = MatrixIndex(written(tmp_path, embeddings))
    if on_device:
        monkeypatch.setattr("datamodules.matrix_index.ROWS_ON_DEVICE", 20)
        index._keep_on_device()  # the CPU stands for it
    found, rows = index.search(queries, k)
    assert rows.tolist() == expected
    np.testing.assert_array_equal(found, np.take_along_axis(scores, rows, axis=1))
    assert k == 1 or any(len({*of_query}) < k for of_query in found.tolist()), "none ties"


@pytest.mark.parametrize("on_device", [False, True])
def test_some_chunks_are_searched_alone(tmp_path, on_device):
    """Their rows keep the numbers that they have in the whole."""
    index = MatrixIndex(written(tmp_path), chunks=range(1, 3))
    if on_device:
        index._keep_on_device()
    queries = vectors(count=3, seed=2)
    scores, rows = index.search(queries, 9)
    expected_scores, expected_rows = PassageIndex.build(vectors()[16:48]).search(queries, 9)
    np.testing.assert_array_equal(rows, expected_rows + 16)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-6)
    assert len(index) == 32
    assert len(MatrixIndex(index.matrix, chunks=range(0))) == 0


def test_equal_scores_come_in_the_order_of_rows(tmp_path):
    index = MatrixIndex(written(tmp_path, np.ones((50, 6), dtype=np.float32)))
    _, rows = index.search(np.ones((2, 6), dtype=np.float32), 50)
    assert rows.tolist() == [list(range(50))] * 2
