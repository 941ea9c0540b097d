"""Checks every annotated shape and type of the packages while the tests run."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

_ROOT = Path(__file__).parents[1]
# Text is put together by a dozen small calls for each prompt: to check these took a tenth of all the time.
_UNCHECKED = {"prompts"}
_CHECKED = [
    f"datamodules.{path.stem}"
    for path in (_ROOT / "datamodules").iterdir()
    if path.stem not in _UNCHECKED and not path.name.startswith("__")
]
# Files of half a minute and more, the longest first.
_LONGEST = (
    "test_train.py",
    "test_docs.py",
    "test_preflight.py",
    "test_probe.py",
    "test_report.py",
    "test_run.py",
    "test_paper_run.py",
    "test_checks.py",
    "test_shipped_configs.py",
    "test_training.py",
    "test_analyse.py",
    "test_two_processes.py",
    "test_gguf_cache.py",
)
_PLACES = {name: place for place, name in enumerate(_LONGEST)}
# Before anything imports the packages: modules loaded earlier would go unchecked.
install_import_hook([*_CHECKED, "lightning_modules"], "beartype.beartype")

# Tiny models gain nothing from threads, and lose much where other processes use the cores.
torch.set_num_threads(1)

# Each example writes over the files of the last. HYPOTHESIS_PROFILE=thorough asks for many, and for others.
_QUICK = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("fast", max_examples=25, derandomize=True, **_QUICK)
settings.register_profile("thorough", max_examples=2000, **_QUICK)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


@pytest.fixture(scope="session")
def goldens_folder() -> Path:
    """Folder of reference figures computed with the original code of the papers."""
    return Path(__file__).parent / "goldens"


def pytest_collection_modifyitems(items):
    """The longest files first: two processes end together where what comes last is short."""
    items.sort(key=lambda item: _PLACES.get(item.path.name, len(_PLACES)))
