"""Published numbers beside those of paper-scale runs, against their sources."""

import pytest

from experiments.show.published import make_published_table
from experiments.show.report_rows import Entry

# percent of the test questions, as the sources print them: castorini/pyserini, 2cr/odqa_nq.yaml and
# 2cr/odqa_tqa.yaml; Contriever, arXiv 2112.09118, unsupervised retrieval on NaturalQuestions and TriviaQA
PRINTED = {
    ("NQ", "BM25 (k1 0.9, b 0.4)"): (44.82, 63.99, 79.20),
    ("NQ", "Contriever, untrained"): (47.8, 67.8, 82.1),
    ("NQ", "DPR"): (68.61, 80.58, 86.68),
    ("NQ", "DKRR"): (73.80, 84.27, 89.34),
    ("TriviaQA", "BM25 (k1 0.9, b 0.4)"): (66.28, 76.41, 83.15),
    ("TriviaQA", "Contriever, untrained"): (59.4, 74.2, 83.2),
    ("TriviaQA", "DPR"): (69.80, 78.87, 84.79),
    ("TriviaQA", "DKRR"): (77.23, 83.74, 87.78),
}


def entry(scale: str, dataset: str) -> Entry:
    return Entry(scale=scale, dataset=dataset, setting="step2", status="missing")


def test_the_numbers_are_those_of_their_sources():
    table = make_published_table([entry("paper", "nq"), entry("paper", "triviaqa"), entry("paper", "nq")])
    assert table is not None
    assert table.columns == ("data", "retriever", "Hit Rate@5", "Hit Rate@20", "Hit Rate@100", "source")
    found = {row[:2]: tuple(100 * float(cell) for cell in row[2:5]) for row in table.rows}
    assert len(table.rows) == len(PRINTED)
    for row, percent in PRINTED.items():
        assert found[row] == pytest.approx(percent, abs=0.0501), row
        assert list(found[row]) == sorted(found[row])
    sources = {row[1]: row[-1] for row in table.rows}
    assert sources["Contriever, untrained"].startswith("Izacard")
    assert all("Pyserini" in sources[name] for name in ("BM25 (k1 0.9, b 0.4)", "DPR", "DKRR"))
    assert "0.478 and 0.594" in table.notes[0]


def test_only_data_sets_of_paper_scale_runs_are_compared():
    nq = make_published_table([entry("paper", "nq"), entry("embedded", "vital")])
    assert nq is not None
    assert {row[0] for row in nq.rows} == {"NQ"}
    assert make_published_table([entry("embedded", "vital")]) is None
    assert make_published_table([]) is None
