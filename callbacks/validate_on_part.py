"""Validations search a fixed part of the knowledge base, encoded anew for each."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16, Int64
from lightning import Callback, LightningModule, Trainer

from callbacks.index_builder import encode_in_shares
from datamodules.answer_matching import HitMatcher
from datamodules.batches import Question, in_batches
from datamodules.errors import DataError
from datamodules.gold_titles import read_gold_titles
from datamodules.partial_index import PartialIndex, choose_rows
from datamodules.passage_index import SearchIndex
from datamodules.qa_datamodule import QuestionDataModule
from datamodules.sealed_files import DamagedFileError, read_json, write_json
from lightning_modules.processes import failing_together
from lightning_modules.retrieval import RETRIEVED_TOGETHER, RetrievalModule

log = logging.getLogger(__name__)


class ValidateOnPart(Callback):
    """Gives each validation a fresh index of the same part of the knowledge base.

    An index of all passages costs an encoding of them all, too much for each validation of a large knowledge
    base; one that is not made anew measures how well the retriever fits its own past. A fixed part is cheap
    to encode, and Hit Rates over it, the start's included, can be compared with each other. They are higher
    than over all passages: the final test searches all.

    The part holds the validation questions' gold passages (of the gold title, and with an answer), what the
    start's index and BM25 rank first for them, and a random sample of the rest. It is chosen at the first
    validation and kept in a file, so that a resumed run goes on with it. While the exact whole index is of
    the present passage encoder, as at the start, its embeddings are taken.

    It must come after `RefreshIndex`, whose index training goes on with.

    Args:
        num_passages: in the part.
        path: of the file.
        use_gpu: search on the GPU.
        batch_size: passages encoded together.
        seed: of the random sample.
        show_progress: a bar with rate and time left.
        gold_titles: file of the titles of the passages that answer questions which name none themselves, see
            `read_gold_titles`; it is read where the part is chosen.
    """

    def __init__(
        self,
        num_passages: int,
        path: Path | str,
        use_gpu: bool = False,
        batch_size: int = 64,
        seed: int = 0,
        show_progress: bool = True,
        gold_titles: Path | None = None,
    ) -> None:
        self.num_passages = num_passages
        self.path = Path(path)
        self.use_gpu = use_gpu
        self.batch_size = batch_size
        self.seed = seed
        self.show_progress = show_progress
        self.gold_titles = gold_titles
        self._rows: Int64[np.ndarray, " rows"] | None = None
        self._whole: SearchIndex | None = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, RetrievalModule)
        with pl_module.timer.part("refresh_index"):
            if self._rows is None:
                self._rows = self._kept(trainer, pl_module)
            device = pl_module.device if self.use_gpu else "cpu"
            index = PartialIndex(self._embeddings(trainer, pl_module, self._rows), self._rows, device)
        self._whole, pl_module.index = pl_module.index, index
        pl_module.searched_rows = self._rows
        pl_module.index_is_fresh = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._give_back_whole(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """A collapse ends a validation before its end, and the test after it searches all."""
        self._give_back_whole(pl_module)

    def _give_back_whole(self, module: LightningModule) -> None:
        assert isinstance(module, RetrievalModule)
        if module.searched_rows is not None:
            module.index, self._whole = self._whole, None
            module.searched_rows = None

    def _embeddings(
        self, trainer: Trainer, module: RetrievalModule, rows: Int64[np.ndarray, " rows"]
    ) -> Float16[np.ndarray, "rows dim"]:
        """In half precision, as a large index keeps them, so that start and later are measured alike."""
        found = None
        if module.index_is_fresh and module.index is not None:  # at the start, say: they are there
            found = module.index.embeddings(rows)
        if found is None:
            found = encode_in_shares(
                trainer, module, rows.tolist(), self.batch_size, self.show_progress, np.float16
            )
        return found.astype(np.float16, copy=False)

    # ---- which passages ----

    def _kept(self, trainer: Trainer, module: RetrievalModule) -> Int64[np.ndarray, " rows"]:
        total = len(module.knowledge_base)
        is_chosen = trainer.strategy.broadcast(self.path.is_file())
        if not is_chosen:
            needed = self._needed(trainer, module)
            if trainer.is_global_zero:
                rows = choose_rows(needed, self.num_passages, total, self.seed)
                write_json(self.path, {"rows": rows.tolist()})
                log.info("validations search %d of %d passages", len(rows), total)
        trainer.strategy.barrier("passages of validations chosen")
        try:
            return read_rows(self.path, total)
        except DamagedFileError as error:
            raise DamagedFileError(
                f"{error}; start the run anew, since its validations can no longer be compared"
            ) from error

    def _needed(self, trainer: Trainer, module: RetrievalModule) -> list[list[int]]:
        """For each validation question the rows that its Hit Rate should not go without.

        The first process asks for all, and the others take part in its searches.
        """
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(datamodule, QuestionDataModule)
        with failing_together(trainer, DataError):
            gold = self._gold(module, datamodule.validation) if trainer.is_global_zero else {}
        needed = []
        for batch in in_batches(datamodule.validation, RETRIEVED_TOGETHER):
            questions = batch if trainer.is_global_zero else []
            k = min(max(module.num_passages, *module.hit_rate_ks), len(module.knowledge_base))
            rankings = [module.search_index(questions, k)]
            if module.bm25 is not None and questions:
                _, found = module.bm25.search([question.text for question in questions], k)
                rankings.append(found.tolist())
            for question, *ranked in zip(questions, *rankings, strict=True):
                needed.append(gold[question.id] + [row for pair in zip(*ranked, strict=True) for row in pair])
        return needed

    def _gold(self, module: RetrievalModule, questions: Sequence[Question]) -> dict[str, list[int]]:
        titles = {} if self.gold_titles is None else read_gold_titles(self.gold_titles)
        questions = [
            question if question.title else replace(question, title=titles.get(question.words, ""))
            for question in questions
        ]
        gold = gold_rows(module, questions)
        num_titled, num_found = sum(bool(q.title) for q in questions), sum(map(bool, gold.values()))
        log.info("gold passages of %d of %d validation questions are known", num_found, len(questions))
        if num_titled and not num_found:
            log.warning(
                "of %d validation questions the title of the gold passage is known, and no passage of such a "
                "title holds an answer: are titles spelled as in data.passages?",
                num_titled,
            )
        return gold


def read_rows(path: Path, num_passages: int) -> Int64[np.ndarray, " rows"]:
    """The rows that validations search, as `ValidateOnPart` has kept them.

    Args:
        path: of the file.
        num_passages: in the knowledge base.

    Raises:
        FileNotFoundError: they were not chosen yet.
        DamagedFileError: it does not hold rows of the passages.
    """
    kept = read_json(path).get("rows")
    try:
        rows = np.array(kept, dtype=np.int64)
        is_whole = rows.ndim == 1 and len(rows) > 0 and rows.min() >= 0 and rows.max() < num_passages
    except (TypeError, ValueError, OverflowError):
        is_whole = False
    if not is_whole:
        raise DamagedFileError(f"{path} is damaged: it should hold rows of the {num_passages} passages")
    return rows


def gold_rows(module: RetrievalModule, questions: Sequence[Question]) -> dict[str, list[int]]:
    """By question id the rows of its passages judged relevant, or of its gold title that hold an answer."""
    knowledge_base = module.knowledge_base
    titled = knowledge_base.rows_titled({question.title for question in questions if question.title})
    judged = knowledge_base.rows_of(id for question in questions for id in question.positives)
    gold = {}
    for question in questions:
        matcher = HitMatcher(question, module.answer_match)
        rows = [judged[id] for id in sorted(question.positives) if id in judged]
        rows += [row for row in titled.get(question.title, []) if row not in rows]
        gold[question.id] = [row for row in rows if matcher.matches(knowledge_base[row])]
    return gold
