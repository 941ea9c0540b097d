"""Measures of rankings against judgements, as TREC's tools compute them (ir-measures)."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from datamodules.errors import DataError
from datamodules.trec import Qrels

RANKING_MEASURES = {
    "nDCG@10": "nDCG@10",
    "MRR@10": "RR@10",
    "R@20": "R@20",
    "R@100": "R@100",
    "Hit Rate@1": "Success@1",
    "Hit Rate@5": "Success@5",
    "Hit Rate@20": "Success@20",
}
"""What they are called here, and in ir-measures."""

Ranking = Mapping[str, Sequence[tuple[str, float]]]
"""Passages and scores by question, best first."""


def ranking_values(
    qrels: Qrels, ranking: Ranking, measures: Sequence[str]
) -> dict[str, Float[np.ndarray, " questions"]]:
    """Measures of a ranking, question by question in the order of the judgements.

    Args:
        qrels: what is relevant; a question of which nothing is counts with 0.
        ranking: what was found; a question of which nothing was counts with 0.
        measures: of `RANKING_MEASURES`.

    Raises:
        DataError: ir-measures is not installed.

    Example:
        >>> qrels = {"q": {"a": 1, "b": 0}}
        >>> values = ranking_values(qrels, {"q": [("b", 2.0), ("a", 1.0)]}, ["MRR@10", "Hit Rate@1"])
        >>> {name: float(of[0]) for name, of in values.items()}
        {'MRR@10': 0.5, 'Hit Rate@1': 0.0}
    """
    try:
        import ir_measures
    except ImportError as error:
        raise DataError(
            "nDCG and MRR need the package ir-measures, which is not installed; pip install "
            "'attention-distillation[evaluation]'"
        ) from error
    wanted = {ir_measures.parse_measure(RANKING_MEASURES[name]): name for name in measures}
    places = {question_id: place for place, question_id in enumerate(qrels)}
    values = {name: np.zeros(len(places)) for name in measures}
    scores = {of: dict(found) for of, found in ranking.items() if of in places}
    judged = {of: dict(relevance) for of, relevance in qrels.items()}
    for metric in ir_measures.iter_calc(list(wanted), judged, scores):
        values[wanted[metric.measure]][places[metric.query_id]] = metric.value
    return values
