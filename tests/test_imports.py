"""Rules of the house, read off the source: who may import whom, and what nobody may call."""

import ast
import importlib
import itertools
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("datamodules", "lightning_modules", "callbacks", "experiments")
"""Each may import itself and those before it."""
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
TREES = {path: ast.parse(path.read_text(), filename=str(path)) for path in FILES}


def imported(path: Path) -> Iterator[str]:
    """Full names of all that a file imports, wherever in it."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """(place, name as written, call) of all calls."""
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield f"{path.relative_to(ROOT)}, line {node.lineno}", ast.unparse(node.func), node


def keywords(call: ast.Call) -> dict[str | None, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}


def test_there_is_something_to_check():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(PACKAGES)
    assert len(list(calls())) > 500


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    later = PACKAGES[PACKAGES.index(package) + 1 :]
    tops = {name.split(".")[0] for name in imported(path)}
    assert not tops & {*later, "tests"}
    if package != "experiments":
        assert "omegaconf" not in tops, "OmegaConf is for experiments/ only"


def test_nothing_is_unpickled():
    for path in FILES:
        # the error that torch refuses a pickle with may be caught
        tops = {name.split(".")[0] for name in imported(path) if name != "pickle.UnpicklingError"}
        assert not tops & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}, path
    for place, name, call in calls():
        if name == "torch.load":
            assert keywords(call).get("weights_only") == "True", place
        if name.endswith(".fit") and name != "self.fit":
            assert keywords(call).get("weights_only") == "True", place
        if name in ("np.load", "numpy.load"):
            assert keywords(call).get("allow_pickle", "False") == "False", place


def test_no_remote_code_and_no_hard_wired_gpu():
    for place, name, call in calls():
        assert keywords(call).get("trust_remote_code", "False") == "False", place
        assert not name.endswith(".cuda"), f"{place}: move tensors to the device of the models"
        assert name not in ("eval", "exec", "os.system"), place
        assert keywords(call).get("shell", "False") == "False", place


def test_importing_has_no_side_effects(tmp_path):
    """Nothing printed, no file written, no thread left, by any module."""
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES]
    program = "import importlib, threading\n"
    program += "".join(f"importlib.import_module({name.removesuffix('.__init__')!r})\n" for name in modules)
    program += "assert threading.active_count() == 1, threading.enumerate()\n"
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


def test_every_package_imported_is_a_requirement():
    """`make wheel` uses the development environment's, and would not see that one is not asked for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].items()
    of_extras = [lines for name, lines in extras if name not in ("test", "dev")]
    asked = {
        re.split(r"[^\w.-]", line)[0].lower().replace("_", "-")
        for line in itertools.chain(project["dependencies"], *of_extras)
    }
    known = packages_distributions()
    for path in FILES:
        for top in {name.split(".")[0] for name in imported(path)} - sys.stdlib_module_names - set(PACKAGES):
            names = {name.lower().replace("_", "-") for name in known.get(top, [top])}
            assert names & asked, f"{path}: {top} is of {names}, no requirement"


@pytest.mark.parametrize(
    "name",
    [
        "callbacks.refresh_index.RefreshIndex",
        "callbacks.refresh_index.RefreshSchedule",
        "lightning_modules.RetrieverReaderModule",
        "lightning_modules.metrics.answers.exact_match",
        "lightning_modules.metrics.answers.f1_score",
        "lightning_modules.metrics.hit_rate.has_answer",
        "lightning_modules.metrics.indicators.Indicator",
        "lightning_modules.metrics.teacher_auc.TeacherAUC",
        "lightning_modules.preflight.preflight",
    ],
)
def test_public_names_stay_where_they_are(name):
    module, _, item = name.rpartition(".")
    assert hasattr(importlib.import_module(module), item)
