"""What is looked at first: TensorBoard's curves as one dashboard, and what was retrieved as text."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.evaluation_callback import EvaluationCallback
from callbacks.logged_media import log_text
from callbacks.markdown_text import plain
from callbacks.read_start_candidates import START_CANDIDATES
from callbacks.stop_on_indicators import MONITORS
from callbacks.stop_on_thresholds import BOUND_TAG
from callbacks.threshold import Threshold
from lightning_modules.evaluation import Evaluation
from lightning_modules.metrics.measures import (
    INDICATOR_CATEGORIES,
    LOSSES,
    READER,
    TEACHER,
    Prominence,
    all_measures,
)
from lightning_modules.retriever_reader import RetrieverReaderModule


def _curves(*tags: str) -> list[Any]:
    # TensorBoard takes tags for regular expressions, which would match longer names too
    return ["Multiline", [f"^{tag}$" for tag in tags]]


def layout(
    with_reader_loss: bool,
    monitors: Sequence[str] = MONITORS,
    percentiles: Sequence[int] = (90, 95),
    loss_name: str = "kl",
    thresholds: Sequence[Threshold] = (),
) -> dict[str, dict[str, list[Any]]]:
    """TensorBoard's custom-scalars layout: category -> chart -> tags.

    Args:
        with_reader_loss: whether the reader is trained.
        monitors: metrics that decisions are made by.
        percentiles: of the indicators.
        loss_name: of the retriever's loss (`Objective.loss_name`); the other losses have no chart.
        thresholds: whose bounds are logged, in the order in which they are numbered.
    """
    tags: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for measure in all_measures(percentiles):
        is_other_loss = measure in LOSSES and measure.name != loss_name
        if measure.chart is not None and measure.prominence is not Prominence.COUNT and not is_other_loss:
            category, chart = measure.chart
            tags[category][chart].append(measure.in_validation)
            if measure.of_answer is not None:
                tags[category][chart].append(f"test/{measure.name}")
            elif measure in LOSSES:
                tags[category][chart].insert(0, f"train/{measure.name}")
            if with_reader_loss and measure in TEACHER:
                on_start = f"{chart} on the start's passages"
                tags[category][on_start].append(f"{START_CANDIDATES}{measure.name}")
    tags[INDICATOR_CATEGORIES[2]]["Spearman, good above the line"].append("indicator2/good_above")
    if with_reader_loss:
        tags[READER]["loss"].append("train/reader_loss")
    charts = {
        category: {chart: _curves(*names) for chart, names in sorted_charts.items()}
        for category, sorted_charts in sorted(tags.items())
    }
    changes = {
        name: ["Margin", [f"stopping/change_{name}{part}" for part in ("", "_low", "_high")]]
        for name in monitors
    }
    bounds = {
        str(threshold): _curves(threshold.metric, f"{BOUND_TAG}{number}")
        for number, threshold in enumerate(thresholds, start=1)
    }
    return {
        **charts,
        **({"5 Decisions: change since the start, with its bounds": changes} if changes else {}),
        **({"5 Decisions: thresholds": bounds} if bounds else {}),
        "6 Health of the embeddings": {
            "effective rank, lower is more collapsed": _curves("embeddings/effective_rank"),
            "share of near-duplicates": _curves("embeddings/near_duplicates"),
        },
        "7 Staleness of the index": {
            "overlap with a fresh index": _curves("staleness/overlap_at_[0-9]+"),
            "embedding drift": _curves("staleness/drift", "staleness/drift_max", "staleness/drift_l2"),
        },
        "8 Seconds": {
            "parts of a step": _curves(
                *(f"time/{part}_s" for part in ("retrieve", "read", "encode", "teach", "backward"))
            ),
            "refreshing the index": _curves("time/refresh_index_s", "time/staleness_s"),
        },
    }


class Dashboard(EvaluationCallback):
    """Writes the custom-scalars layout once, and a few questions with their passages at each validation.

    Args:
        num_questions: questions whose retrieved passages are shown.
        num_passages: passages shown of each.
        monitors: metrics that decisions are made by.
        thresholds: likewise, in the order of `StopOnThresholds`.
    """

    def __init__(
        self,
        num_questions: int = 4,
        num_passages: int = 5,
        monitors: Sequence[str] = MONITORS,
        thresholds: Sequence[Threshold] = (),
    ) -> None:
        self.monitors = tuple(monitors)
        self.thresholds = tuple(thresholds)
        self.num_questions = num_questions
        self.num_passages = num_passages
        self._shown: list[str] = []
        self._has_layout = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._shown = []
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and not self._has_layout:
                logger.experiment.add_custom_scalars(self._layout(pl_module))
                self._has_layout = True

    def on_validated(self, trainer: Trainer, pl_module: LightningModule, evaluation: Evaluation) -> None:
        for row in range(len(evaluation.questions)):
            if len(self._shown) < self.num_questions:
                self._shown.append(_describe(evaluation, row, self.num_passages))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        log_text(trainer, "retrieved", "\n\n---\n\n".join(self._shown))

    def _layout(self, module: LightningModule) -> dict[str, dict[str, list[Any]]]:
        if not isinstance(module, RetrieverReaderModule):
            return layout(False, self.monitors, thresholds=self.thresholds)
        loss_name = module.objective.loss_name
        return layout(module.train_reader, self.monitors, loss_name=loss_name, thresholds=self.thresholds)


def _describe(outputs: Evaluation, row: int, num_passages: int) -> str:
    """Markdown: the question, its answers, the reader's answer, and a table of passages."""
    question, read = outputs.questions[row], outputs.read
    lines = [f"**{plain(question.text)}**", f"answers: {plain(' / '.join(question.answers))}"]
    if row < len(outputs.predictions):
        lines.append(f"reader: {plain(outputs.predictions[row])}")
    head = "| rank | holds an answer | p_ATTN | p_RETR | passage |\n|---|---|---|---|---|"
    rows = [head]
    for rank, passage in enumerate(outputs.passages[row][:num_passages]):
        p_attn = p_retr = ""
        if read is not None and row < len(read) and rank < read.batch.num_passages:
            p_attn, p_retr = f"{read.p_target[row, rank]:.3f}", f"{read.log_p_retr[row, rank].exp():.3f}"
        hit = "yes" if bool(outputs.is_hit[row, rank]) else ""
        text = f"**{plain(passage.title)}** {plain(passage.text[:160])}"
        rows.append(f"| {rank + 1} | {hit} | {p_attn} | {p_retr} | {text} |")
    return "\n\n".join([*lines, "\n".join(rows)])
