"""What all cells of the study share: questions, passages, candidates, and the retriever at the start."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from lightning import Callback, Trainer, seed_everything
from torch import Tensor

from datamodules.batches import Passage, Question, in_batches
from datamodules.passage_index import SearchIndex
from datamodules.qa_datamodule import QuestionDataModule
from experiments.build import build, hardware
from experiments.checks import check_config
from experiments.config import ConfigError, ExperimentConfig, load_config
from experiments.runs import starting_weights
from lightning_modules import RetrieverReaderModule
from lightning_modules.candidates import CandidateSource
from lightning_modules.encoding import build_index, encode_passages
from lightning_modules.eval_mode import eval_mode
from lightning_modules.evaluation import find_hits
from lightning_modules.length_control import PassageRanking
from lightning_modules.retrieval import RETRIEVED_TOGETHER, RetrievalModule
from lightning_modules.retriever import Retriever
from lightning_modules.scores import log_p_retr

DEFAULTS = (
    "data.max_train=856",
    "data.max_validation=200",
    "data.max_passages=2500",
    "data.batch_size=4",
    "training.num_passages=6",
    "objective.in_batch=false",
    "objective.signals.answer=1",
    "reader.attention_heads=null",  # what its teachers look at, each says itself
    "retriever.tied=false",
    "retriever.train_passage_encoder=false",
    "training.retriever_lr=3e-5",
    "training.retriever_warmup_steps=4",
    "trainer.max_steps=32",
    "trainer.validate_every_steps=8",
)
"""Settings of the study beside those of its experiment; what the command line says comes after them."""
NUM_UNSEEN = 500
"""The last training questions, which stand in for the test questions: the suite's defaults, and the settings
of the study, were chosen with the test questions in sight."""
NUM_SEARCHED = 900
"""Passages that validation and test questions search."""
_READ = ("data", "reader", "retriever", "retrieval", "init", "seed")
_SHOWN_OR_WHERE = ("progress_bar", "accelerator", "devices", "loggers")
"""Settings of a trainer that results do not depend on."""
_OF_TRAINING = ("tied", "train_passage_encoder", "dropout", "num_at_once")
"""Settings of a retriever that candidates do not depend on."""
NUM_PASSED_OVER = 100
"""The first training questions, which Step 1 is not trained on: the lists of attention heads that come with
the suite were chosen on them and some of those that follow."""


@dataclass(frozen=True)
class Candidates:
    """The passages that questions are read with, fixed for all readers, teachers and seeds.

    Attributes:
        questions: that teach.
        passages: K of each, best first.
        has_answer: True = the passage holds an answer.
    """

    questions: list[Question]
    passages: list[list[Passage]]
    has_answer: Bool[Tensor, "questions passages"]


class Material:
    """Everything that is the same in all cells, made when it is first asked for.

    Args:
        config: of the study.
        num_questions: training questions that teach.
        folder: of all studies.
        num_unseen: training questions that retrievers are measured on; 0 = on the test questions.
        second: another reader, of another family: hub name, folder or .gguf file; None = there is none.

    Attributes:
        folder: of what is kept with these settings of data and models: the slice of the knowledge base,
            readers and their readings.
        cells_folder: of the cells, which depend on how retrievers are trained too.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        num_questions: int,
        folder: Path,
        num_unseen: int,
        second: str | None = None,
    ) -> None:
        self.config = config
        self.second = second
        self.num_questions = num_questions
        self.num_unseen = num_unseen
        self.folder = folder / f"read-{self._fingerprint(*_READ)}"
        self.cells_folder = folder / f"cells-{self.settings}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._candidates: dict[CandidateSource, Candidates] = {}
        self._log_p_retr: dict[CandidateSource, Tensor] = {}

    @classmethod
    def of(
        cls,
        experiment: str,
        overrides: Sequence[str],
        num_questions: int,
        num_unseen: int = NUM_UNSEEN,
        second: str | None = None,
    ) -> "Material":
        """That of an experiment, with the study's settings and those of the command line.

        What is kept lies in `study`, in the folder of its runs.

        Raises:
            ConfigError: settings that cannot be.
        """
        config = load_config(experiment, [*DEFAULTS, *overrides])
        check_config(config)
        if num_questions < 2:
            raise ConfigError(f"--questions {num_questions} must be at least 2")
        if num_unseen < 0:
            raise ConfigError(f"--unseen {num_unseen} must be at least 0")
        return cls(config, num_questions, Path(config.runs) / "study", num_unseen, second)

    @property
    def settings(self) -> str:
        """A fingerprint: results with other settings are not mixed with these."""
        return self._fingerprint(*_READ, "objective", "training", "trainer", "evaluation")

    def _fingerprint(self, *sections: str) -> str:
        settings = dataclasses.asdict(self.config)
        about = {name: settings[name] for name in sections}
        about |= {
            "questions": self.num_questions,
            "unseen": self.num_unseen,
            "passages": self.config.training.num_passages,
        }
        if sections == _READ:  # candidates are found before anything is trained
            about["retriever"] = {
                name: value for name, value in settings["retriever"].items() if name not in _OF_TRAINING
            }
            about["precision"] = settings["trainer"]["precision"]
            # of the passages' shares in the loss of Step 1
            about["retrieval_temperature"] = settings["objective"]["retrieval_temperature"]
        for name in _SHOWN_OR_WHERE:
            about.get("trainer", {}).pop(name, None)
        text = json.dumps(about, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    # ---- what it is made of ----

    @cached_property
    def _built(self) -> tuple[QuestionDataModule, RetrievalModule]:
        seed_everything(self.config.seed, verbose=False)
        # readers are loaded when they are asked for
        evaluation = dataclasses.replace(self.config.evaluation, retrieve_only=True)
        config = dataclasses.replace(self.config, evaluation=evaluation)
        datamodule, module = build(config, self.folder, starting_weights(config), reads_train=True)
        module.eval().requires_grad_(False)
        module.to(self.trainer().strategy.root_device)
        return datamodule, module

    @property
    def datamodule(self) -> QuestionDataModule:
        return self._built[0]

    @property
    def retrieval(self) -> RetrievalModule:
        """The starting retriever with BM25 over the knowledge base; its index is made with the candidates."""
        return self._built[1]

    @property
    def retriever(self) -> Retriever:
        """That all runs start from; nobody trains this one."""
        return self.retrieval.retriever

    def trainer(self, **settings: Any) -> Trainer:
        """As runs have it: accelerator and precision of the configuration, and nothing around a step."""
        return Trainer(
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **{**hardware(self.config), **settings},
        )

    def in_precision(self) -> AbstractContextManager[None]:
        """Inside, models compute as they do in runs."""
        return self.trainer().precision_plugin.forward_context()

    def train(
        self,
        module: RetrieverReaderModule,
        questions: list[Question],
        batch_size: int,
        num_steps: int,
        seed: int,
        callback: Callback,
    ) -> None:
        """Trains a module on some questions; nothing is validated but by the callback.

        Args:
            module: that is trained.
            questions: in an order that the seed makes.
            batch_size: of a step, or all questions where there are fewer.
            num_steps: of the optimizer.
            seed: of the order.
            callback: that looks on.
        """
        datamodule = QuestionDataModule(
            questions,
            self.datamodule.validation,
            self.datamodule.test,
            batch_size=min(batch_size, len(questions)),
            seed=seed,
        )
        trainer = self.trainer(
            max_steps=num_steps,
            max_epochs=-1,
            limit_val_batches=0,
            callbacks=[callback],
            use_distributed_sampler=False,
        )
        try:
            trainer.fit(module, datamodule=datamodule, weights_only=True)
        except SystemExit as end:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from end

    # ---- questions ----

    @property
    def _seen(self) -> list[Question]:
        """The training questions that are not measured on."""
        train = self.datamodule.train
        return train[: max(0, len(train) - self.num_unseen)]

    @cached_property
    def questions(self) -> list[Question]:
        """Training questions that teach the retriever: the last ones, which no reader was trained on.

        Raises:
            ConfigError: there are fewer.
        """
        if len(self._seen) < self.num_questions:
            raise ConfigError(
                f"--questions {self.num_questions} and --unseen {self.num_unseen}: there are only "
                f"{len(self.datamodule.train)} training questions; ask for fewer, or raise data.max_train"
            )
        return self._seen[-self.num_questions :]

    @cached_property
    def reader_questions(self) -> list[Question]:
        """Training questions that Step 1 trains the reader on: none that teaches, or that heads were chosen
        on, where there are others.

        Raises:
            ConfigError: all of them teach.
        """
        before = self._seen[: -self.num_questions]
        if not before:
            raise ConfigError(
                "Step 1 would train the reader on the questions that teach; raise data.max_train, or ask for "
                "fewer --questions"
            )
        return before[NUM_PASSED_OVER:] or before

    @property
    def test_questions(self) -> list[Question]:
        """That retrievers are measured on."""
        return self.datamodule.train[-self.num_unseen :] if self.num_unseen else self.datamodule.test

    # ---- passages ----

    @cached_property
    def passages(self) -> list[Passage]:
        """Those that validation and test questions search: their gold passages, and every so many others."""
        knowledge_base = self.retrieval.knowledge_base
        everything = knowledge_base[0 : len(knowledge_base)]
        asked = [*self.datamodule.validation, *self.test_questions]
        return _some(everything, asked, NUM_SEARCHED)

    @cached_property
    def validation_columns(self) -> list[int]:
        """Of `passages`, those that validations within a run search."""
        asked = self.datamodule.validation
        kept = {passage.id for passage in _some(self.passages, asked, 3 * len(asked) // 2)}
        return [column for column, passage in enumerate(self.passages) if passage.id in kept]

    @cached_property
    def index(self) -> SearchIndex:
        """Of all passages by the starting retriever."""
        with self.in_precision():
            return build_index(self.retriever, self.retrieval.knowledge_base)

    def candidates(self, source: CandidateSource) -> Candidates:
        """Those of the questions that teach, from the starting retriever's index, BM25 or both."""
        if source not in self._candidates:
            self._candidates[source] = self._find_candidates(source)
        return self._candidates[source]

    @torch.no_grad()
    def _find_candidates(self, source: CandidateSource) -> Candidates:
        module, questions = self.retrieval, self.questions
        of_source = dataclasses.replace(module.candidates, source=source)
        with self.in_precision(), module.evaluating(candidates=of_source, index=self.index):
            found = [
                passages
                for batch in in_batches(questions, RETRIEVED_TOGETHER)
                for passages in module.retrieve_candidates(batch)
            ]
        return Candidates(questions, found, find_hits(questions, found, module.answer_match))

    def log_p_retr(self, source: CandidateSource) -> Float[Tensor, "questions passages"]:
        """log p_RETR (Eq. 2) of the starting retriever over the candidates."""
        if source not in self._log_p_retr:
            self._log_p_retr[source] = self._compute_log_p_retr(self.candidates(source))
        return self._log_p_retr[source]

    @torch.no_grad()
    def _compute_log_p_retr(self, candidates: Candidates) -> Float[Tensor, "questions passages"]:
        num_passages = candidates.has_answer.shape[1]
        with self.in_precision(), eval_mode(self.retriever):
            queries = torch.cat(
                [
                    self.retriever.encode_queries([question.text for question in some])
                    for some in in_batches(candidates.questions, RETRIEVED_TOGETHER)
                ]
            )
            flat = [passage for found in candidates.passages for passage in found]
            passages = torch.from_numpy(encode_passages(self.retriever, flat)).to(queries.device)
        shape = (-1, num_passages, passages.shape[-1])
        temperature = self.config.objective.retrieval_temperature
        assert temperature is not None, "the study's experiment names it"
        return log_p_retr(queries.float(), passages.view(shape), temperature).cpu()

    # ---- rankings ----

    def rankings(self, retriever: Retriever) -> tuple[PassageRanking, PassageRanking]:
        """Of all passages that are searched, for the validation and for the test questions."""
        with self.in_precision():
            embeddings = self._embeddings(retriever)
            validation, test = (
                PassageRanking.of(retriever, embeddings, questions, self.passages, self._match)
                for questions in (self.datamodule.validation, self.test_questions)
            )
        return validation, test

    def validation_ranking(self, retriever: Retriever) -> PassageRanking:
        """Of the passages that a validation within a run searches."""
        passages = [self.passages[column] for column in self.validation_columns]
        with self.in_precision():
            if self.config.retriever.train_passage_encoder:
                embeddings = encode_passages(retriever, passages)
            else:
                embeddings = self._start_embeddings[self.validation_columns]
            return PassageRanking.of(retriever, embeddings, self.datamodule.validation, passages, self._match)

    def _embeddings(self, retriever: Retriever) -> Float[np.ndarray, "passages dim"]:
        """Of all passages; those of the start where only queries are encoded anew (query-side tuning)."""
        if self.config.retriever.train_passage_encoder:
            return encode_passages(retriever, self.passages)
        return self._start_embeddings

    @cached_property
    def _start_embeddings(self) -> Float[np.ndarray, "passages dim"]:
        return encode_passages(self.retriever, self.passages)

    def validation_part(self, ranking: PassageRanking) -> PassageRanking:
        """What `validation_ranking` would give, of a ranking of all passages for the validation questions."""
        passages = [self.passages[column] for column in self.validation_columns]
        scores = ranking.scores[:, self.validation_columns]
        return PassageRanking(scores, self.datamodule.validation, passages, self._match)

    @property
    def _match(self) -> str:
        return str(self.config.evaluation.answer_match)

    @cached_property
    def start_rankings(self) -> tuple[PassageRanking, PassageRanking]:
        """`rankings` of the starting retriever."""
        return self.rankings(self.retriever)


def _some(passages: list[Passage], questions: Sequence[Question], size: int) -> list[Passage]:
    """The gold passages of the questions, and others at even distances up to a size, in order.

    All of them where nobody knows the gold ones: else most questions could not be answered.
    """
    titles = {question.title for question in questions if question.title}
    if not titles:
        return passages
    gold = [row for row, passage in enumerate(passages) if passage.title in titles]
    others = sorted(set(range(len(passages))) - set(gold))
    num_others = min(len(others), max(0, size - len(gold)))
    chosen = np.linspace(0, len(others) - 1, num_others).round().astype(int)
    return [passages[row] for row in sorted([*gold, *(others[i] for i in chosen)])]
