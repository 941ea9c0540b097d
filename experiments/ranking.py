"""Retrievers of every kind over test collections: what each ranks first, and how good that is."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from jaxtyping import Float
from lightning import Trainer

from callbacks.progress import progress_bar
from datamodules.answer_matching import AnswerMatch, AnswerMatcher
from datamodules.batches import Question, in_batches
from datamodules.bm25 import BM25Index
from datamodules.errors import DataError
from datamodules.judged_sets import read_judged_set
from datamodules.passage_index import PassageIndex
from datamodules.passages import KnowledgeBase, build_knowledge_base
from datamodules.trec import Qrels
from experiments.build import build_datamodule, build_knowledge, build_retriever, hardware
from experiments.config import ConfigError, ExperimentConfig, RetrieverConfig
from experiments.runs import RunFolder, snapshot_of_run
from lightning_modules.encoding import encode_rows
from lightning_modules.eval_mode import eval_mode
from lightning_modules.metrics.estimates import Estimate, estimate
from lightning_modules.metrics.ranking import RANKING_MEASURES, Ranking, ranking_values
from lightning_modules.retriever import PASSAGE_ENCODER, Retriever

BM25 = "bm25"
OWN_TEST = "test"
"""The collection that is the test split of the experiment itself."""
MAX_PASSAGES = 6_000_000
"""9 GB of embeddings of 384 dimensions."""
_DEPTH = 100
"""Passages ranked for each question."""
_TOGETHER = 64
_JUDGED = ("nDCG@10", "MRR@10", "R@20", "R@100")


@dataclasses.dataclass(frozen=True)
class System:
    """A retriever to evaluate.

    Attributes:
        name: what it is called in tables.
        load: gives the encoder; None = BM25.
    """

    name: str
    load: Callable[[], Retriever] | None


@dataclasses.dataclass(frozen=True)
class Collection:
    """Questions over a knowledge base.

    Attributes:
        name: of the collection.
        questions: that are asked.
        knowledge_base: that is searched.
        qrels: judgements; None = a passage is relevant that holds an answer, judged are those that a
            compared retriever finds (pooling).
        match: when a passage holds an answer.
    """

    name: str
    questions: list[Question]
    knowledge_base: KnowledgeBase
    qrels: Qrels | None
    match: AnswerMatch

    @property
    def measures(self) -> tuple[str, ...]:
        """Those that are looked at: for questions with answers the Hit Rate too."""
        return _JUDGED if self.qrels is not None else tuple(RANKING_MEASURES)

    def judge(self, rankings: Sequence[Ranking]) -> Qrels:
        """The judgements, where there are none those of what the rankings hold."""
        if self.qrels is not None:
            return self.qrels
        qrels = {}
        for question in self.questions:
            pool = dict.fromkeys(id for ranking in rankings for id, _ in ranking[question.id])
            passages = self.knowledge_base.find(pool)
            matcher = AnswerMatcher(question.answers, self.match)
            qrels[question.id] = {id: int(matcher.matches(passages[id].text)) for id in pool}
        return qrels


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Retrievers on a collection.

    Attributes:
        collection: its name.
        num_questions: asked.
        num_passages: searched.
        is_pooled: whether the judgements are those of the pool.
        names: of the retrievers.
        values: by measure, of each retriever and question.
        rankings: of each retriever.
        qrels: the judgements.
    """

    collection: str
    num_questions: int
    num_passages: int
    is_pooled: bool
    names: list[str]
    values: dict[str, Float[np.ndarray, "systems questions"]]
    rankings: list[Ranking]
    qrels: Qrels

    def estimates(self, measure: str) -> list[Estimate]:
        """The mean of each retriever with its interval over questions."""
        return [estimate(of_system) for of_system in self.values[measure]]

    def changes(self, measure: str) -> list[Estimate]:
        """The mean paired difference of each retriever to the first one, with its interval."""
        return [estimate(of_system - self.values[measure][0]) for of_system in self.values[measure]]


# ---- retrievers ----


def systems_of(name: str, config: ExperimentConfig, overrides: Sequence[str]) -> Iterator[System]:
    """What a name on the command line stands for.

    Args:
        name: `bm25`; a run's folder, which is its start and, where it trained the retriever, its end; or a
            folder or hub name of a model of sentence-transformers or transformers.
        config: whose maximum lengths hold for models that are of no run.
        overrides: settings to change in a run's configuration.

    Raises:
        ConfigError: a run that has not ended.
    """
    if name == BM25:
        yield System(BM25, None)
        return
    if RunFolder(Path(name)).config.is_file():
        yield from _systems_of_run(Path(name), overrides)
        return
    is_tied = not (Path(name) / PASSAGE_ENCODER).is_dir()
    ours = config.retriever
    settings = RetrieverConfig(
        name=name,
        tied=is_tied,
        max_query_tokens=ours.max_query_tokens,
        max_passage_tokens=ours.max_passage_tokens,
    )
    yield System(name, lambda: build_retriever(dataclasses.replace(config, retriever=settings)))


def _systems_of_run(path: Path, overrides: Sequence[str]) -> Iterator[System]:
    start, end = (snapshot_of_run(path, overrides, at_start) for at_start in (True, False))
    if end.is_start:
        raise ConfigError(f"{path} has not ended; go on with: python -m experiments.run --resume {path}")
    yield System(f"{path.name}, start", lambda: build_retriever(start.config, start.weights["retriever"]))
    if end.weights["retriever"] != start.weights["retriever"]:
        yield System(f"{path.name}, trained", lambda: build_retriever(end.config, end.weights["retriever"]))


# ---- collections ----


@contextmanager
def open_collection(name: str, config: ExperimentConfig) -> Iterator[Collection]:
    """The questions and passages of a collection, for the while.

    Args:
        name: `test`, the experiment's own test split; a folder of BEIR's layout; or one of NanoBEIR's sets.
        config: of the experiment.

    Raises:
        DataError: as `read_judged_set`.
    """
    match = AnswerMatch(config.evaluation.answer_match)
    with TemporaryDirectory() as scratch:
        if name == OWN_TEST:
            datamodule = build_datamodule(config)
            knowledge_base = build_knowledge(config, datamodule, Path(scratch))
            yield Collection(f"test questions of {config.name}", datamodule.test, knowledge_base, None, match)
            return
        judged = read_judged_set(name)
        knowledge_base = build_knowledge_base(judged.passages(), Path(scratch) / "corpus.arrow")
        yield Collection(judged.name, judged.questions, knowledge_base, judged.qrels, match)


# ---- ranking ----


def compare(systems: Sequence[System], collection: Collection, config: ExperimentConfig) -> Comparison:
    """Ranks the first 100 passages of every question by each retriever, and measures them.

    Args:
        systems: the retrievers; differences are to the first.
        collection: what they are asked.
        config: says on what hardware, in which precision.
    """
    rankings = [_rank(system, collection, config) for system in systems]
    qrels = collection.judge(rankings)
    found = [ranking_values(qrels, ranking, collection.measures) for ranking in rankings]
    return Comparison(
        collection.name,
        len(collection.questions),
        len(collection.knowledge_base),
        collection.qrels is None,
        [system.name for system in systems],
        {name: np.stack([values[name] for values in found]) for name in collection.measures},
        rankings,
        qrels,
    )


def _rank(system: System, collection: Collection, config: ExperimentConfig) -> Ranking:
    knowledge_base, texts = collection.knowledge_base, [question.text for question in collection.questions]
    depth = min(_DEPTH, len(knowledge_base))
    if len(knowledge_base) > MAX_PASSAGES:
        raise ConfigError(
            f"{collection.name}: {len(knowledge_base):,} passages, whose embeddings are all held in memory "
            f"here; at most {MAX_PASSAGES:,}: cut a slice with data.max_passages, or take the run's own TREC "
            "files"
        )
    if system.load is None:
        scores, rows = BM25Index.build(knowledge_base).search(texts, depth)
    else:
        scores, rows = _search(system.load(), system.name, knowledge_base, texts, depth, config)
    ids = [[passage.id for passage in knowledge_base.select(found)] for found in rows.tolist()]
    ranking = {
        question.id: list(zip(of_question, found, strict=True))
        for question, of_question, found in zip(collection.questions, ids, scores.tolist(), strict=True)
    }
    for question_id, ranked in ranking.items():
        if len(dict(ranked)) < len(ranked):
            raise DataError(f"{collection.name}: two passages found for question {question_id} have one id")
    return ranking


@torch.no_grad()
def _search(
    retriever: Retriever,
    name: str,
    knowledge_base: KnowledgeBase,
    texts: Sequence[str],
    depth: int,
    config: ExperimentConfig,
) -> tuple[np.ndarray, np.ndarray]:
    trainer = Trainer(logger=False, enable_checkpointing=False, **{**hardware(config), "devices": 1})
    bar = progress_bar(len(knowledge_base), f"Encoding, {name}", "passages", config.trainer.progress_bar)
    with trainer.precision_plugin.forward_context(), eval_mode(retriever), bar:  # as runs make their indices
        retriever.to(trainer.strategy.root_device)
        embeddings = encode_rows(
            retriever, knowledge_base, range(len(knowledge_base)), config.index.batch_size, bar.update
        )
        queries = torch.cat([retriever.encode_queries(some) for some in in_batches(texts, _TOGETHER)])
    return PassageIndex.build(embeddings).search(queries.float().cpu().numpy(), depth)
