"""Shows what the reader attends to: passages shaded token by token, at each validation."""

from collections.abc import Sequence
from pathlib import Path

from lightning import LightningModule, Trainer

from callbacks.attended_tokens import QuestionView, view_question
from callbacks.evaluation_callback import EvaluationCallback
from callbacks.logged_media import log_text
from callbacks.token_page import html_page, markdown
from datamodules.durable_files import write_durably
from lightning_modules.evaluation import Evaluation
from lightning_modules.retriever_reader import RetrieverReaderModule


class TokenView(EvaluationCallback):
    """Writes `step-N.html`, a copy as `latest.html`, and a plainer text for the loggers.

    The questions are the first that a validation reads, the same ones each time. Under DDP they are those of
    the first process. The first page and the newest ones are kept; a resumed run replaces those of its step
    and later ones.

    Args:
        folder: of the pages.
        num_questions: questions shown.
        num_pages: kept, at least 2.
    """

    def __init__(self, folder: Path | str, num_questions: int = 3, num_pages: int = 20) -> None:
        if num_pages < 2:
            raise ValueError(f"num_pages={num_pages} must be at least 2, the first and the newest")
        self.folder = Path(folder)
        self.num_questions = num_questions
        self.num_pages = num_pages
        self._views: list[QuestionView] = []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._views = []

    def on_validated(self, trainer: Trainer, pl_module: LightningModule, evaluation: Evaluation) -> None:
        if evaluation.read is None or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, RetrieverReaderModule)
        predictions: Sequence[str | None] = evaluation.predictions or [None] * len(evaluation.read)
        for row in range(min(len(evaluation.read), self.num_questions - len(self._views))):
            view = view_question(evaluation.read, row, predictions[row], pl_module.reader.tokenizer)
            self._views.append(view)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._views:
            return
        page = html_page(self._views, trainer.global_step)
        for name in (f"step-{trainer.global_step}.html", "latest.html"):
            write_durably(self.folder / name, page)
        self._prune(trainer.global_step)
        log_text(trainer, "token_view", markdown(self._views))

    def _prune(self, step: int) -> None:
        pages = {int(path.stem.removeprefix("step-")): path for path in self.folder.glob("step-*.html")}
        steps = sorted(pages)
        past = [one for one in steps if one <= step]
        kept = {past[0], *past[1:][-(self.num_pages - 1) :]}
        for one in steps:
            if one not in kept:
                pages[one].unlink()
