"""Every benchmark at its smallest: the results agree, and the table and the JSON have their form."""

import json
import subprocess

import pytest
import torch

from experiments.benchmarks import quickstart
from experiments.benchmarks.__main__ import BENCHMARKS, main, table_of
from experiments.benchmarks.comparison import (
    AtMost,
    Comparison,
    Setting,
    Size,
    Spread,
    TimesFaster,
    agreement_of,
    in_turns,
)
from experiments.show.console import WIDTH, new_console
from tests.toy_training import LIGHTNING_ADVICE

IN_PROCESS = [name for name in BENCHMARKS if name not in ("start", "quickstart")]


@pytest.mark.filterwarnings(*LIGHTNING_ADVICE)
@pytest.mark.parametrize("name", IN_PROCESS)
def test_a_benchmark_at_its_smallest(name, tmp_path, capsys):
    out = tmp_path / "found.json"
    assert main([name, "--size", "tiny", "--seconds", "0.1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"{name}: " in printed
    assert all(len(line) <= WIDTH for line in printed.splitlines())
    found = json.loads(out.read_text())
    assert found["environment"]["size"] == "tiny"
    rows = found["benchmarks"][name]
    for row in rows:
        low, high = row["suite"]["quartiles"]
        assert 0 <= low <= row["suite"]["median"] <= high
        assert (row["ratio"] is None) is (row["baseline"] is None)
        assert row["is_met"] in ((None,) if row["reach"] is None or row["ratio"] is None else (True, False))
    assert any(row["agreement"] for row in rows), "nothing was compared but time"


class TestQuickstart:
    """The whole takes minutes: what it is compared with, and what it refuses."""

    def test_an_earlier_version_is_checked_out_for_a_while(self, clone):
        with quickstart.checked_out("HEAD~1", clone) as folder:
            assert (folder / "file").read_text() == "before"
            assert (clone / "file").read_text() == "now"
        assert not folder.exists()
        assert "before" not in git(clone, "worktree", "list")

    def test_a_clone_without_its_history(self, clone):
        with (
            pytest.raises(ValueError, match="clone the repository with its history: git fetch --unshallow"),
            quickstart.checked_out("HEAD~7", clone),
        ):
            pass

    def test_another_result_is_no_gain(self):
        one, like_it = quickstart.Run(300, 0.388, 0.596), quickstart.Run(600, 0.388, 0.592)
        said = quickstart.agreement([one], [like_it])
        assert said == "HR@5 0.388 -> 0.596, before HR@5 0.388 -> 0.592"
        with pytest.raises(ValueError, match=r"comes to HR@5 0.388 -> 0.596, and came to HR@5 0.388 -> 0.5"):
            quickstart.agreement([one], [quickstart.Run(600, 0.388, 0.5)])

    @pytest.fixture
    def clone(self, tmp_path):
        folder = tmp_path / "clone"
        folder.mkdir()
        git(folder, "init", "--quiet")
        for text in ("before", "now"):
            (folder / "file").write_text(text)
            git(folder, "add", "file")
            git(folder, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "-m", text)
        return folder


def git(folder, *arguments):
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class TestComparison:
    suite, baseline = Spread([1.0, 2.0, 9.0]), Spread([2.0, 4.0, 3.0])

    def test_ratio_is_that_of_the_turns(self):
        assert Comparison("", "", self.suite, self.baseline).ratio == 0.5  # of 0.5, 0.5 and 3
        slower = Comparison("", "", self.suite, self.baseline, AtMost(0.4))
        assert (slower.ratio, slower.is_met) == (0.5, False)
        faster = Comparison("", "", self.suite, self.baseline, TimesFaster(2))
        assert (faster.ratio, faster.is_met) == (2.0, True)

    def test_without_a_baseline_nothing_is_judged(self):
        alone = Comparison("", "", self.suite, None, AtMost(1))
        assert (alone.ratio, alone.is_met) == (None, None)

    def test_quartiles(self):
        assert Spread([4.0, 1.0, 3.0, 2.0, 5.0]).quartiles == (2.0, 4.0)
        assert Spread([7.0]).quartiles == (7.0, 7.0)

    def test_the_table_is_as_wide_as_the_terminal(self, capsys):
        long = Comparison(
            "a long name " * 9, "another", Spread([12345.6] * 3), self.baseline, TimesFaster(1.5)
        )
        new_console().print(table_of("search", [long]))
        assert max(map(len, capsys.readouterr().out.splitlines())) <= WIDTH


def test_works_take_turns():
    done = []
    setting = Setting(torch.device("cpu"), Size.TINY)
    took = in_turns({name: lambda name=name: done.append(name) for name in "ab"}, setting)
    assert "".join(done) == "ababba"  # the first of each is not counted
    assert [len(spread.values) for spread in took.values()] == [2, 2]


def test_results_that_differ_are_no_gain():
    one = torch.tensor([1.0, 2.0])
    assert agreement_of("scores", one, one, 1e-9) == "scores equal to the bit"
    assert agreement_of("scores", one, one + 1e-5, 1e-4) == "scores equal within 5e-06 of the largest"
    with pytest.raises(ValueError, match=r"scores of suite and baseline differ by 0\.5, where 0\.1"):
        agreement_of("scores", one, torch.tensor([0.0, 2.0]), 0.1)
    with pytest.raises(ValueError, match="differ by nan"):
        agreement_of("scores", one * torch.nan, one, 0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serch"], "there is no benchmark 'serch'; choose among: capture, "),
        (["fid", "--device", "gpu7"], "--device gpu7: torch knows no such device"),
        (["fid", "--size", "huge"], "Size 'huge' is unknown; choose one of: tiny, small, full"),
        pytest.param(
            ["fid", "--device", "cuda"],
            "--device cuda: torch sees no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
def test_mistakes_are_said(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
