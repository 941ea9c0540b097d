"""Checks every annotated shape while the tests run, and the types beside it."""

import os
from functools import cache
from pathlib import Path

import pytest
import spacy
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

_ROOT = Path(__file__).parents[1]
# Where no shape is annotated, mypy has seen all that there is to check, and calls would take a quarter more.
_CHECKED = [
    ".".join(path.relative_to(_ROOT).with_suffix("").parts)
    for package in ("datamodules", "lightning_modules")
    for path in (_ROOT / package).rglob("*.py")
    if "jaxtyping" in path.read_text(encoding="utf-8")
]
# Files of a quarter of a minute and more, the longest first.
_LONGEST = (
    "test_train.py",
    "test_probe.py",
    "test_preflight.py",
    "test_shipped_configs.py",
    "test_paper_run.py",
    "test_docs.py",
    "test_training.py",
    "test_report.py",
    "test_run.py",
    "test_devices.py",
    "test_gpu.py",
    "test_two_processes.py",
    "test_analyse.py",
    "test_refresh_index.py",
    "test_checks.py",
    "test_retriever_reader.py",
    "test_read_start_candidates.py",
    "test_processes.py",
    "test_own_data.py",
    "test_measure_staleness.py",
    "test_save_last.py",
    "test_gguf_cache.py",
    "test_drill.py",
)
_PLACES = {name: place for place, name in enumerate(_LONGEST)}
# Before anything imports the packages: modules loaded earlier would go unchecked.
install_import_hook(_CHECKED, "beartype.beartype")

# Tiny models gain nothing from threads, and lose much where other processes use the cores.
torch.set_num_threads(1)

# Each example writes over the files of the last. HYPOTHESIS_PROFILE=thorough asks for many, and for others.
_QUICK = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("fast", max_examples=25, derandomize=True, **_QUICK)
settings.register_profile("thorough", max_examples=2000, **_QUICK)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


# What is tested of a disk does not depend on when it writes, and hundreds of runs wait for nothing else.
os.fsync = lambda descriptor: None
# To read the English model takes as long as half of a tiny run, and many run in one process.
spacy.load = cache(spacy.load)


@pytest.fixture(scope="session")
def goldens_folder() -> Path:
    """Folder of reference figures computed with the original code of the papers."""
    return Path(__file__).parent / "goldens"


def pytest_collection_modifyitems(items):
    """The longest files first: two processes end together where what comes last is short."""
    items.sort(key=lambda item: _PLACES.get(item.path.name, len(_PLACES)))
