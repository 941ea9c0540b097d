"""Which model a metric is about: what got worse where one falls, in words."""

from callbacks.read_start_candidates import START_CANDIDATES
from lightning_modules.metrics.measures import (
    ANSWERS,
    RETRIEVAL_HIT,
    Better,
    all_measures,
    hit_rate_measure,
)

HIT_RATE = hit_rate_measure(1).in_validation.removesuffix("1")
"""How the names of Hit Rates begin in the log of validations."""
_HITS = (RETRIEVAL_HIT.name, HIT_RATE)
_OF_RETRIEVER = (*_HITS, "embeddings/")
_ANSWERS = tuple(measure.in_validation for measure in ANSWERS)
_OF_READER = (START_CANDIDATES, "indicator", "teacher/", *_ANSWERS)
_HIGHER_IS_BETTER = {m.in_validation for m in all_measures() if m.better is Better.HIGHER}


def model_of(name: str) -> str | None:
    """`retriever` or `reader`, whichever a validation's metric is about; None where it is about neither."""
    if name.startswith(_OF_RETRIEVER):
        return "retriever"
    return "reader" if name.startswith(_OF_READER) else None


def is_worse(name: str, value: float, start: float) -> bool:
    """Whether a metric of which more is better lies below its start; False where either is undefined."""
    measured = name.removeprefix(START_CANDIDATES)
    return (measured in _HIGHER_IS_BETTER or measured.startswith(HIT_RATE)) and value < start


def what_declined(name: str, reader_is_frozen: bool) -> str:
    """Which model got worse, in words, where a metric fell.

    A Hit Rate is the retriever's, all else the reader's where it is trained; a frozen one stays as it is, and
    sees other passages.

    Args:
        name: of the metric, as a validation logs it.
        reader_is_frozen: whether the reader is not trained.
    """
    if name.startswith(_HITS):
        return "the retriever finds passages with an answer for fewer questions, so training harms it"
    if name.startswith(_ANSWERS):
        return (
            "the reader is frozen, and answers worse from what the retriever now finds"
            if reader_is_frozen
            else "the reader answers worse from what is retrieved now than from what was at the start"
        )
    if reader_is_frozen:
        return (
            "the reader is frozen and as good as it was; the retriever now finds passages that it tells "
            "apart less well"
        )
    if not name.startswith(START_CANDIDATES):
        return "the reader teaches worse on what is retrieved now than on what was at the start"
    return "the reader has become a worse teacher, and distilling it on would harm the retriever"
