"""Freed memory goes back to the operating system, and encodings give it back as they go on."""

import sys
from pathlib import Path

import pytest

from lightning_modules import encoding
from lightning_modules.memory import give_memory_back
from tests.toy_training import toy_module


def own_memory() -> int:
    """Of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [size] = [line.split()[1] for line in lines if line.startswith("RssAnon:")]
    return int(size) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_gaps_between_what_is_in_use_are_given_back():
    held = [bytes(100_000) for _ in range(2000)]
    kept = held[::100]
    full = own_memory()
    del held
    give_memory_back()
    assert full - own_memory() > 100e6
    assert len(kept) == 20


def test_an_encoding_gives_back_as_it_goes_on(tmp_path, monkeypatch):
    module = toy_module(tmp_path)
    given_back = []
    monkeypatch.setattr(encoding, "_PASSAGES_SORTED_TOGETHER", 10)
    monkeypatch.setattr(encoding, "give_memory_back", lambda: given_back.append(True))
    encoding.encode_rows(module.retriever, module.knowledge_base, range(24))
    assert len(given_back) == 3
