"""Every example in a docstring says what really comes out."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("datamodules", "lightning_modules", "callbacks", "experiments")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in FILES]
WITH_EXAMPLES = [module for module, path in zip(MODULES, FILES, strict=True) if ">>>" in path.read_text()]


@pytest.mark.parametrize("module", MODULES)
def test_examples(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.failed == 0
    assert (result.attempted > 0) is (module in WITH_EXAMPLES), "an example that nothing runs"


def test_there_are_examples():
    assert len(WITH_EXAMPLES) >= 10
