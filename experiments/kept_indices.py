"""Indices of passages that a run, or the cache that runs share, keeps: who has them encodes nothing again."""

import logging
from pathlib import Path

import numpy as np
from jaxtyping import Float
from lightning.pytorch.plugins import Precision

from datamodules.passage_index import PassageIndex, StaleIndexError
from datamodules.passages import KnowledgeBase
from datamodules.sealed_files import DamagedFileError
from experiments.build import cache_folder
from experiments.config import ExperimentConfig
from experiments.runs import RunFolder
from lightning_modules.encoding import embeddings_fingerprint
from lightning_modules.retriever import Retriever

log = logging.getLogger(__name__)


class KeptIndices:
    """Those of a configuration's cache, and of a run.

    Args:
        config: of the run.
        run: None = of the cache alone.
        precision: that the embeddings were computed in.
    """

    def __init__(self, config: ExperimentConfig, run: RunFolder | None, precision: Precision) -> None:
        self._folders = [cache_folder(config) / "index", *([] if run is None else [run.index])]
        self._precision = precision

    def folder_with(self, retriever: Retriever, knowledge_base: KnowledgeBase) -> Path:
        """The folder that holds an index of these embeddings; the cache's where none does."""
        return self._folder_with(self._fingerprint(retriever, knowledge_base))

    def embeddings(
        self, retriever: Retriever, knowledge_base: KnowledgeBase
    ) -> Float[np.ndarray, "passages dim"] | None:
        """Of all passages, in the run's precision; None where no exact index of them is there."""
        fingerprint = self._fingerprint(retriever, knowledge_base)
        try:
            index = PassageIndex.load(self._folder_with(fingerprint) / fingerprint[:16], fingerprint)
        except (FileNotFoundError, StaleIndexError):
            return None
        except DamagedFileError as error:
            log.warning("%s; encoding all passages again", error)
            return None
        return index.embeddings(np.arange(len(knowledge_base)))

    def _folder_with(self, fingerprint: str) -> Path:
        there = (folder for folder in self._folders if (folder / fingerprint[:16]).is_dir())
        return next(there, self._folders[0])

    def _fingerprint(self, retriever: Retriever, knowledge_base: KnowledgeBase) -> str:
        with self._precision.forward_context():
            return embeddings_fingerprint(retriever, knowledge_base)
