"""TREC files: what is written is read again, whatever the ids."""

import pytest

from datamodules.errors import DataError
from datamodules.trec import is_run, qrels_lines, read_run, run_lines

IDS = ["Don (river)", "100%", "50% of\tthem", "plain", "a%20b c", "é\u00a0ü"]


def test_ids_with_white_space_stay_one_column_and_come_back(tmp_path):
    path = tmp_path / "run"
    lines = list(run_lines("first question", IDS, [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]))
    path.write_text("\n".join(lines) + "\n")
    assert all(len(line.split()) == 6 for line in lines)
    assert lines[0].split()[:3] == ["first%20question", "Q0", "Don%20(river)"]
    assert is_run(path)
    assert [id for id, _ in read_run(path)["first question"]] == IDS
    [judged] = qrels_lines({"q": {"Don (river)": 1}})
    assert judged == "q 0 Don%20(river) 1"


def test_the_best_comes_first_whatever_the_order_of_the_lines(tmp_path):
    path = tmp_path / "run"
    path.write_text("q Q0 a 1 0.5 t\n\nq Q0 b 2 0.75 t\n")
    assert read_run(path) == {"q": [("b", 0.75), ("a", 0.5)]}


def test_an_empty_id_is_refused():
    with pytest.raises(DataError, match="an empty id cannot stand"):
        list(run_lines("", ["a"], [1.0]))
