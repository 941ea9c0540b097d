"""Keeps what the reader answered in the latest test."""

import json
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from lightning_modules.evaluation import Evaluation
from lightning_modules.metrics.answers import exact_match, f1_score


class SavePredictions(Callback):
    """Writes a JSON line for each test question that was read; replaced by the next test.

    Args:
        path: of the JSONL file.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lines: list[str] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._lines = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert isinstance(outputs, Evaluation)
        if outputs.predictions is None:
            return
        for row, (question, prediction) in enumerate(
            zip(outputs.read_questions, outputs.predictions, strict=True)
        ):
            record = {
                "id": question.id,
                "question": question.text,
                "answers": list(question.answers),
                "prediction": prediction,
                "em": exact_match(prediction, question.answers),
                "f1": f1_score(prediction, question.answers),
                "passages": [passage.id for passage in outputs.passages[row]],
                "holds_answer": outputs.is_hit[row].tolist(),
            }
            self._lines.append(json.dumps(record, ensure_ascii=False))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._lines:
            return
        rank = f".rank{trainer.global_rank}" if trainer.global_rank else ""
        path = self.path.with_name(self.path.name + rank)
        partial = path.with_name(path.name + ".partial")
        partial.write_text("\n".join(self._lines) + "\n")
        partial.replace(path)
