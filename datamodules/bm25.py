"""BM25 over a knowledge base: the baseline that a retriever has to beat, and a source of candidates."""

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32, Int, Int64

from datamodules.best_scores import best_places, in_order
from datamodules.errors import DataError
from datamodules.passages import KnowledgeBase
from datamodules.sealed_files import DamagedFileError, verify_folder, whole_folder

if TYPE_CHECKING:
    from bm25s import BM25

# Raise when what is indexed or how it is split into words changes: indices of other versions are rebuilt.
_VERSION = 2
_PASSAGES_AT_A_TIME = 10_000
_NO_WORD = ""
"""Of a passage, or a question, that holds none but stop words."""

log = logging.getLogger(__name__)


class BM25Index:
    """BM25 (Lucene's variant, k1 = 1.5, b = 0.75) of title and text, without English stop words.

    Made by `build` or `load`. Row i is the i-th passage of the knowledge base.

    Args:
        index: of bm25s, with its vocabulary.
    """

    def __init__(self, index: "BM25") -> None:
        self._index = index
        self._split = _tokenizer().splitter

    def __len__(self) -> int:
        return int(self._index.scores["num_docs"])

    @classmethod
    def build(
        cls, knowledge_base: KnowledgeBase, progress: Callable[[int], object] | None = None
    ) -> "BM25Index":
        """Indexes all passages, in memory: about 1 KB for each of 100 words while it is built.

        Args:
            knowledge_base: D.
            progress: called with numbers of passages split into words.

        Raises:
            DataError: bm25s is not installed.
        """
        tokenizer = _tokenizer()
        word_ids: list[Int[np.ndarray, " words"]] = []
        for chunk in knowledge_base.chunks(_PASSAGES_AT_A_TIME):
            texts = [f"{passage.title} {passage.text}" for passage in chunk]
            word_ids += [np.array(ids, dtype=np.int32) for ids in tokenizer.streaming_tokenize(texts)]
            if progress:
                progress(len(chunk))
        index = _bm25s().BM25()
        index.index((word_ids, tokenizer.get_vocab_dict()), show_progress=False)
        return cls(index)

    @classmethod
    def load(cls, folder: Path | str) -> "BM25Index":
        """One that `save` wrote, memory-mapped.

        Raises:
            DataError: bm25s is not installed.
            DamagedFileError: the folder holds no such index, or its files are not what was written.
        """
        bm25s, folder = _bm25s(), Path(folder)
        try:
            # bm25s trusts what it reads, so all of it is compared first
            verify_folder(folder)
            return cls(bm25s.BM25.load(str(folder), mmap=True, show_progress=False))
        except (OSError, ValueError, KeyError, TypeError, EOFError, AttributeError) as error:
            raise DamagedFileError(f"{folder}: not a BM25 index ({error}); delete the folder") from error

    @classmethod
    def cached(
        cls,
        knowledge_base: KnowledgeBase,
        cache: Path | str,
        progress: Callable[[int], object] | None = None,
    ) -> "BM25Index":
        """The index of a knowledge base, built on first use and memory-mapped from then on.

        Args:
            knowledge_base, progress: as in `build`.
            cache: folder of such indices, one for each knowledge base.

        Raises:
            DataError: as `build`; the index cannot be written.
        """
        folder = Path(cache) / f"{knowledge_base.fingerprint[:16]}-v{_VERSION}"
        if folder.is_dir():
            try:
                found = cls.load(folder)
                if len(found) == len(knowledge_base):
                    return found
            except DamagedFileError as error:
                log.warning("%s; it is built anew", error)
            shutil.rmtree(folder, ignore_errors=True)
        cls.build(knowledge_base, progress).save(folder)
        return cls.load(folder)

    def save(self, folder: Path | str) -> None:
        """Writes the index; the folder appears when it is whole, and one that is there and whole stays.

        Raises:
            DataError: it cannot be written.
        """
        with whole_folder(Path(folder)) as partial:
            self._index.save(str(partial), show_progress=False)

    def search(
        self, texts: Sequence[str], k: int, among: Int64[np.ndarray, " rows"] | None = None
    ) -> tuple[Float32[np.ndarray, "questions k"], Int64[np.ndarray, "questions k"]]:
        """The k best passages for each text.

        A passage that shares no word with the text scores 0. Of passages that score the same the earlier one
        comes first.

        Args:
            texts: questions.
            k: passages wanted for each.
            among: rows to choose from; None = all.

        Returns:
            Their scores and rows, best first.

        Raises:
            ValueError: `k` is not between 1 and the number of passages.
        """
        num_passages = len(self) if among is None else len(among)
        if not 1 <= k <= num_passages:
            raise ValueError(f"k is {k}; it must be between 1 and the {num_passages} passages there are")
        found = [self._best(of_text, k, among) for of_text in self._words(texts)]
        return np.stack([scores for scores, _ in found]), np.stack([rows for _, rows in found])

    def _best(
        self, words: list[str], k: int, among: Int64[np.ndarray, " rows"] | None
    ) -> tuple[Float32[np.ndarray, " k"], Int64[np.ndarray, " k"]]:
        """Of one text, whose scores alone are held in memory."""
        # bm25s's own search takes any of those that tie at the last place, others on another processor, and
        # its mask would give passages left out the score of one that shares no word, which can come first
        scores = self._index.get_scores(words)
        scores = scores if among is None else scores[among]
        best, rows = in_order(*best_places(torch.from_numpy(scores)[None], k), k)
        places = rows[0].numpy()
        return best[0].numpy(), places if among is None else among[places]

    def scores(
        self, texts: Sequence[str], rows: Int[np.ndarray, "questions k"]
    ) -> Float32[np.ndarray, "questions k"]:
        """What some passages score for each text; 0 for one that shares no word with it.

        Args:
            texts: questions.
            rows: of the passages of each.
        """
        found = zip(self._words(texts), rows, strict=True)
        return np.stack([self._index.get_scores(of_text)[of_rows] for of_text, of_rows in found])

    def _words(self, texts: Sequence[str]) -> list[list[str]]:
        return [self._split(text.lower()) or [_NO_WORD] for text in texts]


def _bm25s() -> Any:
    try:
        import bm25s
    except ImportError as error:
        raise DataError("BM25 needs the package bm25s, which is not installed; pip install bm25s") from error
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it has turned itself up to DEBUG
    return bm25s


def _tokenizer() -> Any:
    """Splits texts into lower-case words of two characters and more."""
    return _bm25s().tokenization.Tokenizer(stopwords="en")
