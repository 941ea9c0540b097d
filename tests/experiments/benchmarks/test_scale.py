"""The benchmark of large knowledge bases, on a small one."""

import json
import shutil

import pytest

from datamodules.embedding_matrix import EmbeddingMatrix, MatrixShape
from experiments.benchmarks import scale


def test_what_is_built_is_encoded_found_and_refreshed(tmp_path, monkeypatch):
    assert scale._build(tmp_path, 300)["disk_gb"] > 0
    assert scale._part("encode", tmp_path, 64)["passages"] == 300
    [first] = (tmp_path / "index").iterdir()
    found = scale._part("search", tmp_path, 64)
    assert list(found) == ["open it", "search for 100 questions at once", "search for 1 question at once"]
    assert all(of_part["seconds"] > 0 and of_part["memory_gb"] > 0.05 for of_part in found.values())
    scale._part("refresh", tmp_path, 64)
    [second] = (tmp_path / "index").iterdir()
    assert first != second, "the retriever has changed"
    fingerprint = json.loads((second / "matrix.json").read_text())["fingerprint"]
    assert len(EmbeddingMatrix.open(second, fingerprint)) == 300


def test_the_whole_of_it_is_killed_half_way_and_leaves_its_figures(tmp_path, capsys, monkeypatch):
    # but for what is killed all parts run here, which saves starting three processes
    monkeypatch.setattr(scale, "_in_process", scale._part)
    folder = tmp_path / "disk"
    assert scale.main([str(folder), "--passages", "40000"]) == 0
    shown = capsys.readouterr().out
    assert "40,000 passages of 768 dimensions" in shown
    found = json.loads((folder / "scale.json").read_text())
    assert found["passages"] == 40_000
    killed, rest = found["encode, until killed half way"]["passages"], found["encode the rest"]["passages"]
    assert killed + rest == 40_000
    assert 20_000 <= killed < 40_000
    for part in ("build the knowledge base", "open it", "search for 1 question at once", "refresh the index"):
        assert found[part]["seconds"] > 0, part
        assert part in shown
    assert [path.name for path in folder.iterdir()] == ["scale.json"], "what was made is deleted"


@pytest.mark.parametrize("is_begun", [False, True])
def test_too_few_passages_to_be_killed_in_between(tmp_path, monkeypatch, is_begun):
    """The encoding comes to its end, and is given its name, before anybody looks."""
    if is_begun:
        begun = EmbeddingMatrix.begin(tmp_path / "0a.partial", MatrixShape("abc", num_passages=50, dim=6))
        monkeypatch.setattr(scale, "_begun", lambda folder: begun)
        shutil.rmtree(begun.folder)
    monkeypatch.setattr(scale, "_command", lambda part, folder, batch_size: ["sleep", "0.3"])
    with pytest.raises(ValueError, match="measure with more --passages"):
        scale._killed_half_way(tmp_path, 64)


def test_a_passage_that_is_not_found_is_said(tmp_path, monkeypatch):
    scale._build(tmp_path, 50)
    module = scale._module(tmp_path)
    monkeypatch.setattr(module, "search_index", lambda questions, k: [[0]] * len(questions))
    with pytest.raises(ValueError, match="49 of 50 passages were not found by their own words"):
        scale._search(module)
