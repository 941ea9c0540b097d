"""Which settings the verdict of a pre-flight check depends on."""

from collections.abc import Mapping
from typing import Any

_WITHOUT_EFFECT = {
    # what the experiment is called, and where its runs are
    *("name", "description", "scale", "runs"),
    # it orders what is trained on; the questions and passages that a check reads are the same for all
    "seed",
    # how files come to be there, and what is read together
    *("data.download", "data.verify_sizes", "data.batch_size", "data.evaluation_batch_size"),
    # for Indicator 2, for validations over a part of the passages, and for a row that is compared
    *("data.noun_model", "data.gold_titles", "retrieval.bm25_baseline"),
    # how models are trained, of which a check sees the start, and whether a reader's outputs are kept
    *("reader.lora_rank", "reader.lora_alpha", "reader.gradient_checkpointing"),
    *("reader.read_once", "reader.read_once_gb"),
    *("retriever.dropout", "retriever.train_passage_encoder", "retriever.num_at_once"),
    "retrieval.are_fixed",
    *("training", "trainer", "stopping", "collapse"),
    # when the index is made anew, and what validations and tests measure
    *("index", "evaluation"),
}
"""Settings, and whole sections, that no verdict depends on. What is not here counts: of a setting that nobody
has thought of here a verdict is rather left out than quoted for another teacher."""

_WITH_EFFECT = {"training.num_passages", "index.factory", "evaluation.answer_match"}
"""What counts all the same: which passages the teacher puts in order, and which of them are positive."""


def settings_of_verdict(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those that decide what a check finds: its teacher, and the questions and passages that it reads.

    Args:
        settings: of a configuration, by their dotted keys.

    Example:
        >>> settings_of_verdict({"reader.name": "embedded", "seed": 1, "training.retriever_lr": 1e-5})
        {'reader.name': 'embedded'}
    """
    return {
        key: value
        for key, value in settings.items()
        if key in _WITH_EFFECT or not {key, key.partition(".")[0]} & _WITHOUT_EFFECT
    }
