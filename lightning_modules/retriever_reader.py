"""Distillation: both models, and the step that trains the retriever from what the reader attends to."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from datamodules.answer_matching import AnswerMatch
from datamodules.batches import Passage, Question
from datamodules.passage_index import PassageIndex
from datamodules.passages import KnowledgeBase
from lightning_modules.answering import AnsweringModule
from lightning_modules.eval_mode import eval_mode
from lightning_modules.evaluation import Evaluation, find_hits, first_hit_ranks, mean_words
from lightning_modules.metrics.hit_rate import HitRate
from lightning_modules.metrics.question_mean import QuestionMean
from lightning_modules.objectives import AnswerLikelihoods, Constants, Objective
from lightning_modules.optimization import LearningRate, make_optimizer
from lightning_modules.readers.reader import Reader, Reading
from lightning_modules.retriever import Retriever
from lightning_modules.scores import log_p_retr
from lightning_modules.teacher import Teacher
from lightning_modules.token_drops import TokenDrops


class RetrieverReaderModule(AnsweringModule):
    r"""Trains a retriever from a reader, the reader on the answers, or both.

    .. math::
        p_{RETR}(n_i | Q) &= \mathrm{softmax}_i ( s(n_i, Q) / \theta )  \\
        L &= \mathrm{KL}(p_{ATTN} \,\|\, p_{RETR})

    Eq. 2 and the loss of "What Makes Attention Distillation Work?"; p_ATTN (Eq. 1), or what another objective
    has in its place, is the `teacher`'s.

    Args:
        retriever, reader: the two models; without a reader, whose evaluations retrieve only, nothing can be
            trained.
        knowledge_base: the passages D.
        train_retriever, train_reader: off-the-shelf distillation trains both, Step 1 the reader alone,
            Step 2 the retriever alone.
        retriever_rate, reader_rate: learning rates.
        num_passages: K.
        rerank_from: retrieve so many passages from the index, stale as it may be, and keep the best of them
            by their fresh embeddings (Atlas's `--retrieve_with_rerank`); None = as the index ranks them.
        teacher: what of the reader the retriever learns from, and the scale factors; None = plain ADist.
        retrieval_temperature: theta.
        answer_match: when a passage counts as a hit.
        hit_rate_ks: the K's of Hit Rate@K.
        num_read: questions that an evaluation reads (generation, indicators, KL), the first ones, of all
            processes together; all are retrieved for. None = all.
        generate: whether reading questions in evaluation generates answers too (EM, F1).
        max_new_tokens: of a generated answer.
        token_embeddings: what the indicators' similarities are computed from, `input` or `contextual`.
        token_drops: where likelihoods teach, how the indicators' token scores are found, `masked` or
            `gradient`.
        weight_decay: of the optimizer.
        seed: of the choice among several answers in training, and of shuffled passages.

    Raises:
        ValueError: `loop` with a single passage: there is no other one; training without a reader.

    Attributes:
        index: FAISS index over the knowledge base; `callbacks.refresh_index.RefreshIndex` sets it.
        index_is_fresh: whether it was of the present passage encoder when the latest validation began; set
            likewise.
    """

    def __init__(
        self,
        retriever: Retriever,
        reader: Reader | None,
        knowledge_base: KnowledgeBase,
        *,
        train_retriever: bool = True,
        train_reader: bool = False,
        retriever_rate: LearningRate | None = None,
        reader_rate: LearningRate | None = None,
        num_passages: int = 5,
        rerank_from: int | None = None,
        teacher: Teacher | None = None,
        retrieval_temperature: float = 1.0,
        answer_match: AnswerMatch | str = AnswerMatch.TOKENS,
        hit_rate_ks: Sequence[int] = (1, 5, 20),
        num_read: int | None = None,
        generate: bool = True,
        max_new_tokens: int = 32,
        token_embeddings: str = "input",
        token_drops: TokenDrops | str = TokenDrops.MASKED,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(num_read)
        teacher = teacher or Teacher()
        if reader is None and (train_retriever or train_reader):
            raise ValueError("nothing can be trained without a reader: it is what the retriever learns from")
        if teacher.objective is Objective.LOOP and num_passages < 2:
            raise ValueError("objective loop leaves one passage out, so num_passages must be at least 2")
        self.retriever = retriever
        self.reader = reader
        self.knowledge_base = knowledge_base
        self.train_retriever = train_retriever
        self.train_reader = train_reader
        self.retriever_rate = retriever_rate or LearningRate(1e-5)
        self.reader_rate = reader_rate or LearningRate(1e-5)
        self.num_passages = num_passages
        self.rerank_from = rerank_from
        self.teacher = teacher
        self.retrieval_temperature = retrieval_temperature
        self.answer_match = AnswerMatch(answer_match)
        # a small knowledge base may hold fewer passages than the largest K asks for
        self.hit_rate_ks = tuple(k for k in hit_rate_ks if k <= len(knowledge_base))
        self.generate = generate
        self.max_new_tokens = max_new_tokens
        self.token_embeddings = token_embeddings
        self.token_drops = TokenDrops(token_drops)
        self.weight_decay = weight_decay
        self.seed = seed
        self.index: PassageIndex | None = None
        self.index_is_fresh = True
        self.hit_rate = HitRate(self.hit_rate_ks)
        self.passage_words = QuestionMean()
        self.evaluation_loss = QuestionMean()
        self._distils = True
        self.strict_loading = False  # checkpoints hold the trained models only
        # models come in eval mode from where they are loaded, and Lightning leaves the mode as it is
        self.retriever.train(train_retriever)
        if not train_retriever:
            self.retriever.requires_grad_(False)
        if reader is not None:
            reader.train(train_reader)
            if not train_reader:
                reader.requires_grad_(False)

    @property
    def distils(self) -> bool:
        """Whether the retriever learns: False = it stays as it is, while the reader trains on.

        A switch for a run that trains both. It is part of the checkpoint.
        """
        return self._distils

    @distils.setter
    def distils(self, distils: bool) -> None:
        self._distils = distils
        if not distils:
            # no gradient is left over for the optimizer, which skips parameters that have none
            self.retriever.zero_grad(set_to_none=True)

    # ---- the step, in the order of the paper ----

    def training_step(self, batch: list[Question], batch_idx: int) -> Tensor:
        """Retrieve -> read (answer attention) -> p_ATTN; encode with gradient -> p_RETR; KL."""
        order_seed = self.seed + 1009 * self.global_step + batch_idx
        answers = [_choose_answer(question, order_seed) for question in batch]
        with self.timer.part("retrieve"):
            passages = self.retrieve(batch, self.num_passages)
        with self.timer.part("read"):
            taught, student = self._read_for_training(batch, passages, answers, order_seed)
        with self.timer.part("encode"):
            p_retr = self._log_p_retr_for_training(batch, passages)
        losses = {}
        if taught is not None:
            losses[self.teacher.loss_name] = self.teacher.retriever_loss(taught, p_retr)
        if student is not None:
            assert self.reader is not None
            losses["reader_loss"] = self.reader.answer_loss(student, p_retr)
        loss = torch.stack(list(losses.values())).sum()
        self._log_training({**losses, "loss": loss}, len(batch))
        return loss

    @torch.no_grad()
    def retrieve(self, questions: Sequence[Question], k: int) -> list[list[Passage]]:
        """D_n: the k passages that the index ranks first for the fresh embedding of each question.

        With `rerank_from` the index finds so many, and the fresh passage encoder ranks them.
        """
        assert self.index is not None, "RefreshIndex builds the index before anything is retrieved"
        num_found = k
        if self.rerank_from is not None:
            num_found = min(max(k, self.rerank_from), len(self.knowledge_base))
        with eval_mode(self.retriever):
            queries = self.retriever.encode_queries([question.text for question in questions])
            _, rows = self.index.search(queries.float().cpu().numpy(), num_found)
            found = [self.knowledge_base.select(of_question.tolist()) for of_question in rows]
            if self.rerank_from is None:
                return found
            return [self._rerank(query, passages)[:k] for query, passages in zip(queries, found, strict=True)]

    def _rerank(self, query: Float[Tensor, " dim"], passages: Sequence[Passage]) -> list[Passage]:
        """The passages by their fresh score s(n, Q), best first."""
        scores = (self.retriever.encode_passages(passages) * query).sum(dim=-1)
        return [passages[i] for i in scores.argsort(descending=True, stable=True).tolist()]

    def read(
        self,
        questions: Sequence[Question],
        passages: Sequence[Sequence[Passage]],
        answers: Sequence[str],
        order_seed: int = 0,
        with_labels: bool = False,
        embeddings: str | None = None,
    ) -> Reading:
        """The teacher's pass: in eval mode (no dropout) and without gradient. Validation calls it too."""
        assert self.reader is not None
        with torch.no_grad(), eval_mode(self.reader):
            return self.reader.read(questions, passages, answers, order_seed, with_labels, embeddings)

    def log_p_retr(
        self, questions: Sequence[Question], passages: Sequence[Sequence[Passage]]
    ) -> Float[Tensor, "batch passages"]:
        """log p_RETR (Eq. 2) from fresh embeddings, with gradient where the retriever is trained."""
        queries = self.retriever.encode_queries([question.text for question in questions])
        flat = self.retriever.encode_passages([passage for found in passages for passage in found])
        return log_p_retr(
            queries,
            flat.view(len(questions), -1, flat.shape[-1]),
            self.retrieval_temperature,
            divide_by_sqrt_dim=self.teacher.constants is Constants.ATLAS,
        )

    def _log_p_retr_for_training(
        self, questions: Sequence[Question], passages: Sequence[Sequence[Passage]]
    ) -> Float[Tensor, "batch passages"]:
        if self.distils:
            return self.log_p_retr(questions, passages)
        with torch.no_grad(), eval_mode(self.retriever):
            return self.log_p_retr(questions, passages)

    def _read_for_training(
        self,
        questions: Sequence[Question],
        passages: Sequence[Sequence[Passage]],
        answers: Sequence[str],
        order_seed: int,
    ) -> tuple[Reading | AnswerLikelihoods | None, Reading | None]:
        """What the retriever learns from and what the reader does; one pass where they cannot differ."""
        assert self.reader is not None
        student = None
        if self.train_reader:
            student = self.reader.read(questions, passages, answers, order_seed, with_labels=True)
        if not (self.train_retriever and self.distils):
            return None, student
        if student is not None and self.teacher.objective is Objective.ADIST and not self.reader.has_dropout:
            return student, student
        return self.teacher.teach(self.reader, questions, passages, answers, order_seed), student

    def _log_training(self, losses: dict[str, Tensor], batch_size: int) -> None:
        for name, value in losses.items():
            self.log(f"train/{name}", value.detach(), prog_bar=name != "loss", batch_size=batch_size)
        for part, seconds in self.timer.last_s.items():
            self.log(f"time/{part}_s", seconds, batch_size=batch_size)

    # ---- evaluation ----

    # callbacks get an `Evaluation`, which Lightning hands on without looking at it
    def validation_step(self, batch: list[Question], batch_idx: int) -> Evaluation:  # type: ignore[override]
        return self._evaluate(batch)

    def test_step(self, batch: list[Question], batch_idx: int) -> Evaluation:  # type: ignore[override]
        return self._evaluate(batch)

    @torch.no_grad()
    def _evaluate(self, batch: list[Question]) -> Evaluation:
        questions = self.drop_padding(batch)
        k = max(self.num_passages, *self.hit_rate_ks)
        if not questions:  # on this process; all others go on as well, there is nothing to wait for
            return Evaluation([], [], torch.zeros(0, k, dtype=torch.bool, device=self.device), [])
        passages = self.retrieve(questions, k)
        is_hit = find_hits(questions, passages, self.answer_match).to(self.device)
        self.hit_rate.update(first_hit_ranks(is_hit))
        # a retriever that has come to prefer long passages raises its Hit Rate at first, and learns nothing
        self.passage_words.update(mean_words(passages, self.num_passages), len(questions))
        answers = [question.answers[0] for question in questions]
        evaluation = Evaluation(questions, passages, is_hit, answers)
        num_read = 0 if self.reader is None else self.take_to_read(len(questions))
        if num_read > 0:
            evaluation, loss = self.read_for_evaluation(evaluation, num_read)
            self.evaluation_loss.update(loss, num_read)
            if self.generate:
                evaluation = self._generate(evaluation)
        return evaluation

    @torch.no_grad()
    def read_for_evaluation(
        self, evaluation: Evaluation, num_read: int
    ) -> tuple[Evaluation, Float[Tensor, ""]]:
        """Reads the first `num_read` questions of a batch with their first K passages; logs nothing.

        Returns:
            The evaluation with the reading and both distributions, and the retriever's loss.
        """
        assert self.reader is not None
        questions, answers = evaluation.questions[:num_read], evaluation.answers[:num_read]
        passages = [found[: self.num_passages] for found in evaluation.passages[:num_read]]
        with self.timer.part("read_evaluation"):
            taught, reading = self._teach_and_read(questions, passages, answers)
        with eval_mode(self.retriever):
            p_retr = self.log_p_retr(questions, passages)
        p_target = self.teacher.log_p_target(taught, p_retr)
        loss = self.teacher.retriever_loss(taught, p_retr)
        read = replace(evaluation, num_read=num_read, reading=reading, log_p_attn=p_target, log_p_retr=p_retr)
        return read, loss

    def _generate(self, evaluation: Evaluation) -> Evaluation:
        """Answers to the questions that were read, and their EM and F1."""
        assert self.reader is not None
        assert evaluation.log_p_retr is not None
        passages = [found[: self.num_passages] for found in evaluation.passages[: evaluation.num_read]]
        with self.timer.part("generate"):
            predictions = self.reader.generate(
                evaluation.read_questions, passages, evaluation.log_p_retr, self.max_new_tokens
            )
        self.score_answers(predictions, evaluation.read_questions)
        return replace(evaluation, predictions=predictions)

    def _teach_and_read(
        self,
        questions: Sequence[Question],
        passages: Sequence[Sequence[Passage]],
        answers: Sequence[str],
    ) -> tuple[Reading | AnswerLikelihoods, Reading]:
        """What the teacher is made of, and the reading that the indicators look at: the same for ADist."""
        assert self.reader is not None
        if self.teacher.objective is Objective.ADIST:
            reading = self.read(questions, passages, answers, embeddings=self.token_embeddings)
            return reading, reading
        drops = self.reader.read_drops(questions, passages, answers, self.token_embeddings, self.token_drops)
        return self.teacher.teach(self.reader, questions, passages, answers), drops

    def on_validation_epoch_end(self) -> None:
        # Lightning would count the steps of a validation within training from 0, those of all else from 1
        self.log("step", float(self.global_step))
        self._log_evaluation("validation")

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def _log_evaluation(self, stage: str) -> None:
        for name, value in self.hit_rate.compute().items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "hr_at_5")
        self.hit_rate.reset()
        self.log(f"{stage}/passage_words", self.passage_words.compute())
        self.passage_words.reset()
        # every process must join in, also one that has read nothing
        if self.trainer.strategy.reduce_boolean_decision(self.evaluation_loss.update_called, all=False):
            self.log(f"{stage}/{self.teacher.loss_name}", self.evaluation_loss.compute())
            self.evaluation_loss.reset()
        self.log_answer_scores(stage)

    # ---- what Lightning asks for ----

    def configure_optimizers(self) -> Any:
        models: list[tuple[nn.Module, LearningRate]] = []
        if self.train_retriever:
            models.append((self.retriever, self.retriever_rate))
        if self.train_reader:
            assert self.reader is not None
            models.append((self.reader, self.reader_rate))
        num_steps = int(self.trainer.estimated_stepping_batches)
        optimizer, schedule = make_optimizer(models, num_steps, self.weight_decay)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves the models that are not trained out: they are where they were loaded from."""
        frozen = tuple(f"{name}." for name in ("retriever", "reader") if not getattr(self, f"train_{name}"))
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in weights.items() if not k.startswith(frozen)}
        checkpoint["distils"] = self.distils

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        held = checkpoint["state_dict"].keys()
        for name in ("retriever", "reader"):
            if getattr(self, f"train_{name}") and not any(key.startswith(f"{name}.") for key in held):
                raise ValueError(f"the checkpoint holds no weights of the {name}, which this run trains")
        self.distils = checkpoint["distils"]


def _choose_answer(question: Question, seed: int) -> str:
    """One of the acceptable answers, the same for the same question and seed (Atlas picks one likewise)."""
    return random.Random(f"{seed} {question.id}").choice(question.answers)
