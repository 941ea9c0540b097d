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
    """The program of the docs first: it takes longest, and must not be what all else has to wait for."""
    items.sort(key=lambda item: item.path.name != "test_docs.py")
