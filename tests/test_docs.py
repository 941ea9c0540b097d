"""README and docs: what they show is true of this code."""

import re
import runpy
from pathlib import Path

import pytest

from experiments import plan
from experiments.planning import demands
from experiments.study import pages
from experiments.study.pages.templates import Rows
from experiments.study.results_file import TABLE, read_derived, read_table

ROOT = Path(__file__).parents[1]


@pytest.mark.embedded
@pytest.mark.filterwarnings("ignore")
def test_the_program_of_the_docs_runs(tmp_path, monkeypatch, capsys):
    """As it stands, in an empty folder."""
    [program] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), flags=re.DOTALL)
    path = tmp_path / "program.py"
    path.write_text(program)
    monkeypatch.chdir(tmp_path)
    made = runpy.run_path(str(path))
    assert made["verdict"].advice in ("go", "no-go", "unsure")
    assert made["trainer"].global_step == made["trainer"].max_steps
    assert "validation/hr_at_5" in made["trainer"].callback_metrics
    assert (tmp_path / "retriever" / "model.safetensors").is_file()


def test_the_page_of_measures_is_that_of_the_table():
    write = runpy.run_path(str(ROOT / "docs" / "write_measures.py"))["write"]
    assert (ROOT / "docs" / "measures.md").read_text() == write(), "run: python docs/write_measures.py"


def test_the_page_of_keys_is_that_of_the_configuration():
    write = runpy.run_path(str(ROOT / "docs" / "write_configuration.py"))["write"]
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == write(), "run: python docs/write_configuration.py"


def test_the_table_of_benchmarks_is_that_of_their_values():
    write = runpy.run_path(str(ROOT / "docs" / "write_performance.py"))["write"]
    page = (ROOT / "docs" / "performance.md").read_text()
    assert page == write(), "run: python docs/write_performance.py"


def test_the_figure_of_the_method_is_that_of_its_script():
    draw = runpy.run_path(str(ROOT / "docs" / "draw_method.py"))["draw"]
    assert (ROOT / "docs" / "method.svg").read_text() == draw(), "run: python docs/draw_method.py"


@pytest.mark.parametrize("folder", [ROOT / "docs" / "study", ROOT / "docs" / "study" / "nq"])
def test_the_pages_of_the_study_are_those_of_its_table(folder, tmp_path):
    """All of them, from its rows; to compute the derived ones again takes minutes."""
    results, numbers = read_table(folder / TABLE), read_derived(folder / TABLE)
    by_hand = pages.fill_all(folder, Rows(results, numbers, folder))
    for name, text in pages.pages_of(results, numbers, by_hand, tmp_path).items():
        assert (folder / name).read_text() == text, "run: python -m experiments.study --render"


def test_the_plan_of_the_docs_is_what_the_command_prints(tmp_path, monkeypatch, capsys):
    """On a machine that has nothing of it yet."""
    monkeypatch.setattr(demands, "find_model", lambda name: None)
    page = (ROOT / "docs" / "scale.md").read_text()
    [(command, shown)] = re.findall(
        r"```\npython -m experiments\.plan (--exp offshelf_nq .*?)\n\n(.*?)```", page, re.DOTALL
    )
    assert plan.main([*command.split(), f"runs={tmp_path}/runs", f"data.root={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    assert [line.rstrip() for line in printed.splitlines()] == shown.rstrip().splitlines()


def test_links_within_the_docs_lead_somewhere():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page}: {target}"
