"""The benchmark of reading passages, in small."""

from datamodules.passages import read_passages
from experiments.benchmarks.read_passages import main, write_passages


def test_made_up_passages_are_like_the_real_ones(tmp_path):
    write_passages(tmp_path / "p.tsv", 3)
    passages = list(read_passages(tmp_path / "p.tsv"))
    assert [passage.id for passage in passages] == ["1", "2", "3"]
    assert {len(passage.text.split()) for passage in passages} == {100}


def test_a_line_for_each_size_and_nothing_left(capsys, tmp_path):
    assert main(["20", "50", "--folder", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["passages", "20", "50"]
    assert not list(tmp_path.iterdir())
