"""Keeps what the latest test gave for each question."""

import json
import math
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer

from callbacks.evaluation_callback import EvaluationCallback
from callbacks.log_indicators import LogIndicators
from datamodules.sealed_files import checksum, write_durably
from lightning_modules.evaluation import Evaluation, first_hit_ranks
from lightning_modules.metrics.measures import ANSWERS
from lightning_modules.processes import gather


class SavePredictions(EvaluationCallback):
    """Writes a JSON line for each test question, also for those that were only retrieved for.

    Each line holds `id`, `question`, `answers`, `first_hit_rank` (rank from 0 of the first passage that holds
    an answer, null = none does), `passages` (ids, best first) and `holds_answer`; where an answer was
    generated `prediction`, `em` and `f1`; where the question was read `metrics`, such as
    `{"indicator1/spearman_p90": 0.2, "teacher/auc": null}` (null = undefined).

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
        self.checksums |= dict(gather(trainer, [(path.name, checksum(text.encode()))]))

    def _metrics_of_questions(self) -> dict[str, dict[str, float | None]]:
        found = self.indicators.latest_questions
        return {
            question_id: {
                name: None if math.isnan(values[row]) else values[row]
                for name, values in found.values.items()
            }
            for row, question_id in enumerate(found.question_ids)
        }
