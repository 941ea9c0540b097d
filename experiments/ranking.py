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
from datamodules.answer_matching import AnswerMatch, HitMatcher
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
"""Of test collections, whose tables have no Hit Rate."""


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
        measures: those that are looked at.
    """

    name: str
    questions: list[Question]
    knowledge_base: KnowledgeBase
    qrels: Qrels | None
    match: AnswerMatch
    measures: tuple[str, ...]

    def judge(self, rankings: Sequence[Ranking]) -> Qrels:
        """The judgements, where there are none those of what the rankings hold."""
        if self.qrels is not None:
            return self.qrels
        qrels = {}
        for question in self.questions:
            pool = dict.fromkeys(id for ranking in rankings for id, _ in ranking[question.id])
            passages = self.knowledge_base.find(pool)
            matcher = HitMatcher(question, self.match)
            qrels[question.id] = {id: int(matcher.matches(passages[id])) for id in pool}
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


# ---- names ----


def short_names(places: Sequence[str]) -> list[str]:
    """What folders are called in tables and files: by their own name, with those above where others have it.

    Args:
        places: folders, or what is no folder and keeps its name.

    Example:
        >>> short_names(["/runs/a/seed0", "/runs/b/seed0", "/runs/b/seed1", "NanoNQ"])
        ['a/seed0', 'b/seed0', 'seed1', 'NanoNQ']
    """
    parts = [(Path(place).absolute() if Path(place).is_dir() else Path(place)).parts for place in places]

    def is_alone(of: tuple[str, ...], length: int) -> bool:
        return all(other == of or other[-length:] != of[-length:] for other in parts)

    lengths = [next((n for n in range(1, len(of)) if is_alone(of, n)), len(of)) for of in parts]
    return ["/".join(of[-length:]) for of, length in zip(parts, lengths, strict=True)]


# ---- retrievers ----


def systems_of(names: Sequence[str], config: ExperimentConfig, overrides: Sequence[str]) -> Iterator[System]:
    """What names on the command line stand for, in their order.

    Args:
        names: `bm25`; a run's folder, which is its start and, where it trained the retriever, its end; or a
            folder or hub name of a model of sentence-transformers or transformers.
        config: whose maximum lengths hold for models that are of no run.
        overrides: settings to change in a run's configuration.

    Raises:
        ConfigError: a run that has not ended.
    """
    runs = [name for name in names if name != BM25 and RunFolder(Path(name)).config.is_file()]
    called = dict(zip(runs, short_names(runs), strict=True))
    for name in names:
        if name == BM25:
            yield System(BM25, None)
        elif name in called:
            yield from _systems_of_run(Path(name), called[name], overrides)
        else:
            yield _system_of_model(name, config)


def _system_of_model(name: str, config: ExperimentConfig) -> System:
    is_tied = not (Path(name) / PASSAGE_ENCODER).is_dir()
    ours = config.retriever
    settings = RetrieverConfig(
        name=name,
        tied=is_tied,
        max_query_tokens=ours.max_query_tokens,
        max_passage_tokens=ours.max_passage_tokens,
    )
    return System(name, lambda: build_retriever(dataclasses.replace(config, retriever=settings)))


def _systems_of_run(path: Path, called: str, overrides: Sequence[str]) -> Iterator[System]:
    start, end = (snapshot_of_run(path, overrides, at_start) for at_start in (True, False))
    if end.is_start:
        raise ConfigError(f"{path} has not ended; go on with: python -m experiments.run --resume {path}")
    yield System(f"{called}, start", lambda: build_retriever(start.config, start.weights["retriever"]))
    if end.weights["retriever"] != start.weights["retriever"]:
        yield System(f"{called}, trained", lambda: build_retriever(end.config, end.weights["retriever"]))


# ---- collections ----


@contextmanager
def open_collection(name: str, config: ExperimentConfig, called: str | None = None) -> Iterator[Collection]:
    """The questions and passages of a collection, for the while.

    Args:
        name: `test`, the experiment's own test split; a folder of BEIR's layout; or one of NanoBEIR's sets.
        config: of the experiment.
        called: what a folder or set is called; None = by its own name.

    Raises:
        DataError: as `read_judged_set`.
    """
    match = AnswerMatch(config.evaluation.answer_match)
    with TemporaryDirectory() as scratch:
        if name == OWN_TEST:
            datamodule = build_datamodule(config)
            knowledge_base, asked = build_knowledge(config, datamodule, Path(scratch)), datamodule.test
            of, qrels = f"test questions of {config.name}", _judged_by_data(asked)
            yield Collection(of, asked, knowledge_base, qrels, match, tuple(RANKING_MEASURES))
            return
        judged = read_judged_set(name)
        knowledge_base = build_knowledge_base(judged.passages(), Path(scratch) / "corpus.arrow")
        named = called or judged.name
        yield Collection(named, judged.questions, knowledge_base, judged.qrels, match, _JUDGED)


def _judged_by_data(questions: Sequence[Question]) -> Qrels | None:
    """The judgements that come with questions; None where they come with answers alone."""
    if not all(question.positives for question in questions):
        return None
    return {question.id: dict.fromkeys(sorted(question.positives), 1) for question in questions}


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
