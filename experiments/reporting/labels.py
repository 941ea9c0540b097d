"""How settings, data sets and readings are called in a report."""

from experiments.reporting.entries import Entry

_SETTINGS = {
    "checkpoint": "Initial checkpoint",
    "offshelf": "Off-the-shelf",
    "step1": "Step 1",
    "step2": "Step 2 (fine-tuned)",
    "atlas_large": "Atlas-large",
    "perplexity": "Perplexity distillation",
}
_DATASETS = {"nq": "NQ", "triviaqa": "TriviaQA", "vital": "Vital QA"}
_READINGS = {"hr_at_5": "HR@5", "em": "EM", "f1": "F1", "teacher/auc": "Teacher AUC"}
_SCALES = {
    "paper": "Paper scale",
    "embedded": "Embedded scale: small models; not comparable with the paper",
}


def scale_label(scale: str) -> str:
    return _SCALES.get(scale, f"Scale {scale!r}: not comparable with the paper")


def dataset_label(dataset: str) -> str:
    return _DATASETS.get(dataset, dataset)


def setting_label(entry: Entry, separator: str = ", ") -> str:
    """The setting, and after the separator what sets its runs apart."""
    return separator.join([_SETTINGS.get(entry.setting, entry.setting), *entry.notes])


def reading_label(name: str) -> str:
    """`indicator1/spearman_p90` -> `Indicator 1 Spearman p90`."""
    if name in _READINGS:
        return _READINGS[name]
    indicator, _, part = name.partition("/")
    kind, _, percentile = part.partition("_")
    kind = "Spearman" if kind == "spearman" else kind
    return f"Indicator {indicator.removeprefix('indicator')} {kind} {percentile}"
