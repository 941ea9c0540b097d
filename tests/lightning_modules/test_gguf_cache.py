"""Decoded .gguf files: once, whole, and the same model."""

import hashlib
import logging
import os
import re

import pytest
import torch

from datamodules import embedded
from lightning_modules import loading
from lightning_modules.gguf_cache import cache_folder, decoded


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return path


def write_weights(folder):
    (folder / "model.safetensors").write_bytes(b"weights")


def fail(folder):
    write_weights(folder)
    raise KeyError("half way")


def test_a_file_is_decoded_once(file, caplog):
    caplog.set_level(logging.INFO)
    folder = decoded(file, write_weights)
    assert folder.parent == cache_folder()
    assert "decoding model.gguf into" in caplog.text
    assert decoded(file, fail) == folder
    file.write_bytes(b"GGUF, another")
    assert decoded(file, write_weights) != folder
    assert folder.is_dir()


def test_a_damaged_copy_is_decoded_again(file, caplog):
    folder = decoded(file, write_model)
    for name, damage in [("model.safetensors", b"weigh"), ("tokenizer.json", b"{]"), ("checksums.json", b"")]:
        (folder / name).write_bytes(damage)
        assert decoded(file, write_model) == folder
        assert (folder / "model.safetensors").read_bytes() == b"weights"
        assert (folder / "tokenizer.json").read_bytes() == b"{}"
    assert len(re.findall("is damaged.*; decoding it again", caplog.text)) == 3
    assert list(cache_folder().iterdir()) == [folder]


def write_model(folder):
    write_weights(folder)
    (folder / "tokenizer.json").write_bytes(b"{}")


def age(path, seconds=10):
    """A file that changed some time ago, after which its time tells a change."""
    changed = path.stat().st_mtime_ns - seconds * 10**9
    os.utime(path, ns=(changed, changed))
    return changed


def test_files_that_have_not_changed_are_not_read_again(file, monkeypatch):
    decoded(file, write_weights)
    then = age(file)
    read = []
    digest = hashlib.file_digest

    def watched(opened, how):
        read.extend([opened.name] if opened.name == str(file) else [])
        return digest(opened, how)

    monkeypatch.setattr(hashlib, "file_digest", watched)
    for _ in range(3):
        decoded(file, fail)
    assert read == [str(file)]
    file.write_bytes(bytes(file.stat().st_size))
    os.utime(file, ns=(then, then))
    decoded(file, fail)  # nothing tells that it has changed
    age(file, seconds=5)
    decoded(file, write_weights)
    assert read == [str(file)] * 2


def test_what_fails_half_way_leaves_nothing(file):
    with pytest.raises(KeyError, match="half way"):
        decoded(file, fail)
    assert list(cache_folder().iterdir()) == []


def test_of_two_processes_the_first_stays(file):
    def meanwhile(folder):
        first = decoded(file, write_weights)
        (first / "first").touch()
        write_weights(folder)

    folder = decoded(file, meanwhile)
    assert sorted(path.name for path in folder.iterdir()) == ["checksums.json", "first", "model.safetensors"]
    assert list(cache_folder().iterdir()) == [folder]


def test_copies_of_other_library_versions_go(file, monkeypatch):
    older = decoded(file, write_weights)
    monkeypatch.setattr("lightning_modules.gguf_cache.version", lambda name: "99")
    newer = decoded(file, write_weights)
    assert (older.exists(), newer.exists()) == (False, True)


def test_a_folder_that_cannot_be_written_is_gone_without(file, tmp_path, caplog):
    (tmp_path / "cache").write_text("in the way")
    assert decoded(file, write_weights) is None
    assert "model.gguf is not kept decoded, which every start takes time for: " in caplog.text


@pytest.mark.embedded
def test_the_embedded_reader_is_the_same_decoded_or_not(monkeypatch):
    direct = []

    def watched(path, dtype):
        direct.append(decode(path, dtype))
        return direct[-1]

    decode = loading._decode_gguf
    monkeypatch.setattr(loading, "_decode_gguf", watched)
    model, tokenizer = loading.load_causal_lm(embedded.reader_gguf(), torch.bfloat16)
    [(expected, its_tokenizer)] = direct
    weights = model.state_dict()
    assert all(
        torch.equal(value.bfloat16(), weights.pop(name)) for name, value in expected.state_dict().items()
    )
    assert weights == {}
    assert model.generation_config == expected.generation_config
    assert tokenizer.backend_tokenizer.to_str() == its_tokenizer.backend_tokenizer.to_str()
    assert tokenizer.special_tokens_map == its_tokenizer.special_tokens_map
    assert tokenizer.chat_template == its_tokenizer.chat_template
