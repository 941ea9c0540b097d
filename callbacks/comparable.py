"""Which metrics of a validation can be compared with the start, or with a bound."""

from lightning import LightningModule

from callbacks.read_start_candidates import START_CANDIDATES
from callbacks.refresh_index import searches_stale_index
from lightning_modules.metrics.measures import all_measures

_NOT_OF_THE_INDEX = (START_CANDIDATES, "embeddings/", "validation/index_is_fresh")
"""How the names of metrics begin that the index has no part in."""
_UNDEFINED_BY_RETRIEVAL = {measure.name for measure in all_measures() if measure.needs_both}


def is_comparable(name: str, module: LightningModule) -> bool:
    """Whether a metric of the running validation was measured as the start's was: not on a stale index."""
    return name.startswith(_NOT_OF_THE_INDEX) or not searches_stale_index(module)


def is_undefined_by_retrieval(name: str) -> bool:
    """Whether a metric is undefined where what is retrieved is all right or all wrong.

    That says nothing of the teacher; any other metric is undefined because something has broken.
    """
    return name.removesuffix("_std") in _UNDEFINED_BY_RETRIEVAL
