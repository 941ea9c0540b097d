"""Where the time of the models goes, at its smallest."""

import re

from experiments.benchmarks.operators import main


def test_shares_of_operators(capsys):
    assert main(["--size", "tiny"]) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"^products of .* \d+ billion operations/s$", printed, re.MULTILINE)) == 4
    for what in ("reading", "encoding"):
        [after] = re.findall(rf"^{what}: [\d.]+ s, .*\n((?: +[\d.]+%  .*\n?)+)", printed, re.MULTILINE)
        shares = [float(share) for share in re.findall(r"([\d.]+)%", after)]
        assert shares == sorted(shares, reverse=True)
        assert 50 < sum(shares) <= 100.5  # of the first dozen
        assert re.search(r"aten::(mm|addmm), \d+ calls", after)


def test_an_unknown_size(capsys):
    assert main(["--size", "huge"]) == 2
    assert "choose one of: tiny, small, full" in capsys.readouterr().err
