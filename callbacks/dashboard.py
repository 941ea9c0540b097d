"""What TensorBoard shows first: the indicators' curves as one dashboard, and what was retrieved as text."""

from collections.abc import Sequence
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from callbacks.read_start_candidates import START_CANDIDATES
from callbacks.stop_on_indicators import MONITORS
from lightning_modules.evaluation import Evaluation
from lightning_modules.retriever_reader import RetrieverReaderModule


def _curves(*tags: str) -> list[Any]:
    # TensorBoard takes tags for regular expressions, which would match longer names too
    return ["Multiline", [f"^{tag}$" for tag in tags]]


def layout(with_reader_loss: bool, monitors: Sequence[str] = MONITORS) -> dict[str, dict[str, list[Any]]]:
    """TensorBoard's custom-scalars layout: category -> chart -> tags.

    Args:
        with_reader_loss: whether the reader is trained.
        monitors: readings that decisions are made by.
    """
    teacher = {"teacher AUC": _curves("teacher/auc", "teacher/mrr")}
    reader = {"answers": _curves("validation/em", "validation/f1", "test/em", "test/f1")}
    if with_reader_loss:
        reader["loss"] = _curves("train/reader_loss")
        names = (f"{START_CANDIDATES}teacher/auc", f"{START_CANDIDATES}teacher/mrr")
        teacher["teacher AUC on the start's passages"] = _curves(*names)
    return {
        "1 Indicator 1: attention on tokens like the answer": {
            "Spearman, higher is better": _curves("indicator1/spearman_p90", "indicator1/spearman_p95"),
            "mean attention, higher is better": _curves(
                "indicator1/attention_p90", "indicator1/attention_p95"
            ),
            "lift (1 = attention is even), higher is better": _curves(
                "indicator1/lift_p90", "indicator1/lift_p95"
            ),
        },
        "2 Indicator 2: attention on tokens like the question's nouns": {
            "Spearman, good above the line": _curves(
                "indicator2/spearman_p90", "indicator2/spearman_p95", "indicator2/good_above"
            ),
            "mean attention, rising is good": _curves("indicator2/attention_p90", "indicator2/attention_p95"),
            "lift (1 = attention is even), rising is good": _curves(
                "indicator2/lift_p90", "indicator2/lift_p95"
            ),
        },
        "3 Retrieval and teacher": {
            "Hit Rate": _curves("validation/hr_at_1", "validation/hr_at_5", "validation/hr_at_20"),
            "words a retrieved passage": _curves("validation/passage_words"),
            **teacher,
            "KL": _curves("train/kl", "validation/kl"),
        },
        "4 Reader": reader,
        "5 Decisions: change since the start, with its bounds": {
            name: ["Margin", [f"stopping/change_{name}{part}" for part in ("", "_low", "_high")]]
            for name in monitors
        },
        "6 Health of the embeddings": {
            "effective rank, lower is more collapsed": _curves("embeddings/effective_rank"),
            "share of near-duplicates": _curves("embeddings/near_duplicates"),
        },
        "7 Staleness of the index": {
            "overlap with a fresh index": _curves("staleness/overlap_at_[0-9]+"),
            "embedding drift": _curves("staleness/drift", "staleness/drift_max", "staleness/drift_l2"),
        },
        "8 Seconds": {
            "parts of a step": _curves("time/retrieve_s", "time/read_s", "time/encode_s"),
            "refreshing the index": _curves("time/refresh_index_s", "time/staleness_s"),
        },
    }


class Dashboard(Callback):
    """Writes the custom-scalars layout once, and a few questions with their passages at each validation.

    Args:
        num_questions: questions whose retrieved passages are shown.
        num_passages: passages shown of each.
        monitors: readings that decisions are made by.
    """

    def __init__(
        self, num_questions: int = 4, num_passages: int = 5, monitors: Sequence[str] = MONITORS
    ) -> None:
        self.monitors = tuple(monitors)
        self.num_questions = num_questions
        self.num_passages = num_passages
        self._shown: list[str] = []
        self._has_layout = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._shown = []
        for logger in self._loggers(trainer):
            if not self._has_layout:
                assert isinstance(pl_module, RetrieverReaderModule)
                logger.experiment.add_custom_scalars(layout(pl_module.train_reader, self.monitors))
                self._has_layout = True

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert isinstance(outputs, Evaluation)
        for row in range(len(outputs.questions)):
            if len(self._shown) < self.num_questions:
                self._shown.append(_describe(outputs, row, self.num_passages))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in self._loggers(trainer):
            logger.experiment.add_text("retrieved", "\n\n---\n\n".join(self._shown), trainer.global_step)

    def _loggers(self, trainer: Trainer) -> list[TensorBoardLogger]:
        if not trainer.is_global_zero:
            return []
        return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _describe(outputs: Evaluation, row: int, num_passages: int) -> str:
    """Markdown: the question, its answers, the reader's answer, and a table of passages."""
    question = outputs.questions[row]
    lines = [f"**{question.text}**", f"answers: {' / '.join(question.answers)}"]
    if outputs.predictions is not None and row < outputs.num_read:
        lines.append(f"reader: {outputs.predictions[row]}")
    head = "| rank | holds an answer | p_ATTN | p_RETR | passage |\n|---|---|---|---|---|"
    rows = [head]
    for rank, passage in enumerate(outputs.passages[row][:num_passages]):
        p_attn = _probability(outputs.log_p_attn, row, rank)
        p_retr = _probability(outputs.log_p_retr, row, rank)
        hit = "yes" if bool(outputs.is_hit[row, rank]) else ""
        text = f"**{passage.title}** {passage.text[:160]}".replace("|", "\\|").replace("\n", " ")
        rows.append(f"| {rank + 1} | {hit} | {p_attn} | {p_retr} | {text} |")
    return "\n\n".join([*lines, "\n".join(rows)])


def _probability(log_p: Tensor | None, row: int, rank: int) -> str:
    """Empty where the passage was retrieved, but not read."""
    if log_p is None or row >= log_p.shape[0] or rank >= log_p.shape[1]:
        return ""
    return f"{float(log_p[row, rank].exp()):.3f}"
