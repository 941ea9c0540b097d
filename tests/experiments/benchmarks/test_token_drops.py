"""The comparison of gradients with masking, in small."""

from experiments.benchmarks.token_drops import main
from tests.toy_files import as_overrides, toy_settings


def test_both_ways_are_measured(capsys, tmp_path):
    settings = as_overrides(toy_settings(tmp_path))
    assert main(["--questions", "2", *settings]) == 0
    agreement, masked, gradient = capsys.readouterr().out.splitlines()[-3:]
    assert agreement.startswith("Spearman of gradient and masked over a passage's tokens: median ")
    for line, how in ((gradient, "gradient"), (masked, "masked")):
        assert line.startswith(f"{how}: Indicator 1 Spearman p90 ")
        assert "over 2 questions" in line
