"""The benchmark of choosing heads on noise, in small."""

from experiments.benchmarks.head_search_noise import main


def test_it_says_how_many_trials_found_something(capsys):
    sizes = ["--questions", "40", "--layers", "2", "--heads", "3"]
    assert main(["--trials", "3", *sizes]) == 0
    gain, interval = capsys.readouterr().out.splitlines()
    assert gain.startswith("held-out gain ")
    assert gain.endswith("over 3 trials")
    words = interval.replace(",", "").split()
    above, below = int(words[words.index("trials") - 1]), int(words[-1])
    assert 0 <= above + below <= 3
