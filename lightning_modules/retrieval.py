"""Retrieval alone: questions -> passages, and how often they hold an answer."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from datamodules.answer_matching import AnswerMatch
from datamodules.batches import Passage, Question
from datamodules.bm25 import BM25Index
from datamodules.passage_index import SearchIndex, search_for_none
from datamodules.passages import KnowledgeBase
from lightning_modules.answering import AnsweringModule
from lightning_modules.candidates import Candidates
from lightning_modules.eval_mode import eval_mode
from lightning_modules.evaluation import Evaluation, find_hits, first_hit_ranks, mean_words
from lightning_modules.metrics.hit_rate import HitRate
from lightning_modules.metrics.measures import BM25
from lightning_modules.metrics.question_mean import QuestionMean
from lightning_modules.retriever import Retriever

RETRIEVED_TOGETHER = 64
"""Questions, where many are retrieved for and nothing else is done with them."""


class RetrievalModule(AnsweringModule):
    """Retrieves passages for questions, and measures Hit Rate in validations and tests; trains nothing.

    Args:
        retriever: the encoder.
        knowledge_base: the passages D.
        num_passages: K.
        rerank_from: retrieve so many passages from the index, stale as it may be, and keep the best of them
            by their fresh embeddings (Atlas's `--retrieve_with_rerank`); None = as the index ranks them.
        answer_match: when a passage counts as a hit.
        hit_rate_ks: the K's of Hit Rate@K.
        candidates: which passages questions are read with; None = the K that the index ranks first.
        bm25: over the same knowledge base, for candidates that come from it, and as the baseline whose Hit
            Rate evaluations measure beside the retriever's; None = neither.
        num_read, generate: see `AnsweringModule`.

    Raises:
        ValueError: candidates of BM25 without it, or too few of them.

    Attributes:
        index: FAISS index over the knowledge base; `callbacks.refresh_index.RefreshIndex` sets it.
        searched_rows: where the index holds but a part of the knowledge base; None = it holds all.
        index_is_fresh: whether it was of the present passage encoder when the latest validation began; set
            likewise.
    """

    def __init__(
        self,
        retriever: Retriever,
        knowledge_base: KnowledgeBase,
        *,
        num_passages: int = 5,
        rerank_from: int | None = None,
        answer_match: AnswerMatch | str = AnswerMatch.TOKENS,
        hit_rate_ks: Sequence[int] = (1, 5, 20),
        candidates: Candidates | None = None,
        bm25: BM25Index | None = None,
        num_read: int | None = None,
        generate: bool = True,
    ) -> None:
        super().__init__(num_read, generate)
        self.candidates = candidates or Candidates()
        if self.candidates.uses_bm25 and bm25 is None:
            raise ValueError(f"bm25: candidates={self.candidates.source} needs the BM25 index")
        self._num_to_find = self.candidates.num_to_find(num_passages, len(knowledge_base))
        self.bm25 = bm25
        self.retriever = retriever
        self.knowledge_base = knowledge_base
        self.num_passages = num_passages
        self.rerank_from = rerank_from
        self.answer_match = AnswerMatch(answer_match)
        # a small knowledge base may hold fewer passages than the largest K asks for
        self.hit_rate_ks = tuple(k for k in hit_rate_ks if k <= len(knowledge_base))
        self.index: SearchIndex | None = None
        self.searched_rows: Int64[np.ndarray, " rows"] | None = None
        self.index_is_fresh = True
        self.hit_rate = HitRate(self.hit_rate_ks)
        self.bm25_hit_rate = HitRate(self.hit_rate_ks)
        # of the first hit, by the rows that are searched; ids alone are those of one split
        self._bm25_ranks: dict[tuple[Question, bytes | None], int] = {}
        self.passage_words = QuestionMean()
        self.strict_loading = False  # checkpoints hold the trained models only

    # ---- retrieving ----

    @torch.no_grad()
    def retrieve(self, questions: Sequence[Question], k: int) -> list[list[Passage]]:
        """D_n: the k passages that the index ranks first for the fresh embedding of each question.

        With `rerank_from` the index finds so many, and the fresh passage encoder ranks them.

        Raises:
            ValueError: there is no index.
        """
        return [self.knowledge_base.select(rows) for rows in self.search_index(questions, k)]

    def retrieve_candidates(
        self, questions: Sequence[Question], step_seed: int | None = None
    ) -> list[list[Passage]]:
        """The K passages that each question is read with, as `candidates` says.

        Args:
            questions: to find them for.
            step_seed: of sampled ones; None = the first ones, as in evaluations.

        Raises:
            ValueError: they come from the index, and there is none.
        """
        chosen = []
        for question, found in zip(questions, self._rank_candidates(questions), strict=True):
            seed = None if step_seed is None else (step_seed, question.id)
            chosen.append(self.candidates.choose(found, self.num_passages, seed))
        return [self.knowledge_base.select(rows) for rows in chosen]

    def _rank_candidates(self, questions: Sequence[Question]) -> list[list[list[int]]]:
        """For each question the rows that each source ranks first."""
        rankings = []
        if self.candidates.uses_bm25 and questions:
            assert self.bm25 is not None, "checked when the module was made"
            _, rows = self.bm25.search([question.text for question in questions], self._num_to_find)
            rankings.append(rows.tolist())
        if self.candidates.uses_index:
            rankings.append(self.search_index(questions, self._num_to_find))
        return [list(of_question) for of_question in zip(*rankings, strict=True)]

    @torch.no_grad()
    def search_index(self, questions: Sequence[Question], k: int) -> list[list[int]]:
        """Rows of the passages that `retrieve` gives.

        All processes call this together, see `SearchIndex`: one that has no question for none.
        """
        if self.index is None:
            raise ValueError(
                "there is no index to retrieve from: give the trainer callbacks.refresh_index.RefreshIndex, "
                "which builds it before anything is retrieved"
            )
        if not questions:
            search_for_none(self.index)
            return []
        num_found = k
        if self.rerank_from is not None:
            num_found = min(max(k, self.rerank_from), len(self.index))
        with eval_mode(self.retriever):
            queries = self.retriever.encode_queries([question.text for question in questions])
            _, found = self.index.search(queries.float().cpu().numpy(), num_found)
            if self.rerank_from is None:
                return [rows.tolist() for rows in found]
            return [
                self._rerank(query, rows.tolist())[:k] for query, rows in zip(queries, found, strict=True)
            ]

    def _rerank(self, query: Float[Tensor, " dim"], rows: list[int]) -> list[int]:
        """Rows of passages by their fresh score s(n, Q), best first."""
        passages = self.knowledge_base.select(rows)
        scores = (self.retriever.encode_passages(passages) * query).sum(dim=-1)
        return [rows[i] for i in scores.argsort(descending=True, stable=True).tolist()]

    # ---- evaluation ----

    # callbacks get an `Evaluation`, which Lightning hands on without looking at it
    def validation_step(self, batch: list[Question], batch_idx: int) -> Evaluation:  # type: ignore[override]
        return self.evaluate(self.drop_padding(batch))

    def test_step(self, batch: list[Question], batch_idx: int) -> Evaluation:  # type: ignore[override]
        return self.evaluate(self.drop_padding(batch))

    @torch.no_grad()
    def evaluate(self, questions: list[Question]) -> Evaluation:
        """Retrieves for some questions, maybe none, and counts them in this evaluation's Hit Rate."""
        k = max(self.num_passages, *self.hit_rate_ks)
        passages = self.retrieve(questions, k)
        if not questions:  # on this process
            no_hits = torch.zeros(0, k, dtype=torch.bool, device=self.device)
            return Evaluation([], [], no_hits, self.num_passages)
        is_hit = find_hits(questions, passages, self.answer_match).to(self.device)
        self.hit_rate.update(first_hit_ranks(is_hit))
        if self.bm25 is not None:
            self.bm25_hit_rate.update(self._first_hits_of_bm25(questions, self.bm25).to(self.device))
        # a retriever that has come to prefer long passages raises its Hit Rate at first, and learns nothing
        self.passage_words.update(mean_words(passages, self.num_passages), len(questions))
        return Evaluation(questions, passages, is_hit, self.num_passages)

    def _first_hits_of_bm25(self, questions: Sequence[Question], bm25: BM25Index) -> Int[Tensor, " batch"]:
        """Rank of the first passage with an answer, among those that the index holds; found once for each."""
        among = self.searched_rows
        searched = None if among is None else hashlib.sha256(among.tobytes()).digest()
        new = [question for question in questions if (question, searched) not in self._bm25_ranks]
        if new:
            _, rows = bm25.search([question.text for question in new], max(self.hit_rate_ks), among)
            passages = [self.knowledge_base.select(found) for found in rows.tolist()]
            ranks = first_hit_ranks(find_hits(new, passages, self.answer_match)).tolist()
            keys = ((question, searched) for question in new)
            self._bm25_ranks |= dict(zip(keys, ranks, strict=True))
        return torch.tensor([self._bm25_ranks[question, searched] for question in questions])

    def on_validation_epoch_end(self) -> None:
        self.log_evaluation("validation")

    def on_test_epoch_end(self) -> None:
        self.log_evaluation("test")

    def log_evaluation(self, stage: str) -> None:
        """Logs what an evaluation counted."""
        # Lightning would count the steps of a validation within training from 0, those of all else from 1,
        # and those of a run that is resumed at its end from 0 again
        self.log("step", float(self.global_step))
        for name, value in self.hit_rate.compute().items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "hr_at_5")
        if self.bm25 is not None:
            for name, value in self.bm25_hit_rate.compute().items():
                self.log(f"{stage}/{BM25}{name}", value)
        self.log(f"{stage}/passage_words", self.passage_words.compute())
