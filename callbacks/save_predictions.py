"""Keeps what the latest test gave for each question."""

import json
import math
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer

from callbacks.evaluation_callback import EvaluationCallback
from callbacks.log_indicators import LogIndicators
from datamodules.durable_files import write_durably
from datamodules.sealed_files import checksum
from datamodules.trec import qrels_lines, run_lines
from lightning_modules.evaluation import Evaluation, first_hit_ranks
from lightning_modules.metrics.measures import ANSWERS
from lightning_modules.processes import gather


class SavePredictions(EvaluationCallback):
    """Writes a JSON line for each test question, also for those that were only retrieved for.

    Each line holds `id`, `question`, `answers`, `first_hit_rank` (rank from 0 of the first passage that holds
    an answer, null = none does), `passages` (ids, best first) and `holds_answer`; where an answer was
    generated `prediction`, `em` and `f1`; where the question was read `metrics`, such as
    `{"indicator1/spearman_p90": 0.2, "teacher/auc": null}` (null = undefined).

    The retrieved passages also go to files for TREC's tools, `predictions.run.trec` and
    `predictions.qrels.trec` beside `predictions.jsonl`: relevant is what holds an answer, judged what was
    retrieved.

    Args:
        path: of the JSONL file. The next test replaces it, unless `path` was changed before.
        indicators: what measures them; a callback of the same trainer.

    Attributes:
        checksums: by name, of the files of all processes that were written.
    """

    def __init__(self, path: Path | str, indicators: LogIndicators) -> None:
        self.path = Path(path)
        self.indicators = indicators
        self.checksums: dict[str, str] = {}
        self._records: list[dict[str, Any]] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._records = []

    def on_tested(self, trainer: Trainer, pl_module: LightningModule, evaluation: Evaluation) -> None:
        for row, rank in enumerate(first_hit_ranks(evaluation.is_hit).tolist()):
            question = evaluation.questions[row]
            record = {
                "id": question.id,
                "question": question.text,
                "answers": list(question.answers),
                "first_hit_rank": rank if rank >= 0 else None,
                "passages": [passage.id for passage in evaluation.passages[row]],
                "holds_answer": evaluation.is_hit[row].tolist(),
            }
            if row < len(evaluation.predictions):
                prediction = evaluation.predictions[row]
                record["prediction"] = prediction
                for answer in ANSWERS:
                    assert answer.of_answer is not None
                    record[answer.name] = answer.of_answer(prediction, question.answers)
            self._records.append(record)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = self._metrics_of_questions()
        for record in self._records:
            if record["id"] in metrics:
                record["metrics"] = metrics[record["id"]]
        rank = f".rank{trainer.global_rank}" if trainer.global_rank else ""
        path = self.path.with_name(self.path.name + rank)
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in self._records)
        write_durably(path, text)
        self._write_trec(rank)
        self.checksums |= dict(gather(trainer, [(path.name, checksum(text.encode()))]))

    def _write_trec(self, rank: str) -> None:
        """The run, whose scores are 1 / rank, and the judgements of what it holds."""
        run: list[str] = []
        qrels: dict[str, dict[str, int]] = {}
        for record in self._records:
            question_id, passages = record["id"], record["passages"]
            run += run_lines(question_id, passages, [1 / place for place in range(1, len(passages) + 1)])
            qrels[question_id] = dict(zip(passages, map(int, record["holds_answer"]), strict=True))
        for kind, lines in (("run", run), ("qrels", qrels_lines(qrels))):
            path = self.path.with_suffix(f".{kind}.trec{rank}")
            write_durably(path, "".join(f"{line}\n" for line in lines))

    def _metrics_of_questions(self) -> dict[str, dict[str, float | None]]:
        found = self.indicators.latest_questions
        return {
            question_id: {
                name: None if math.isnan(values[row]) else values[row]
                for name, values in found.values.items()
            }
            for row, question_id in enumerate(found.question_ids)
        }
