"""Distillation: both models, and the step that trains the retriever from what the reader attends to."""

import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.data import DistributedSampler

from datamodules.answer_matching import AnswerMatch
from datamodules.batches import Batch, Passage, Question, in_batches
from datamodules.bm25 import BM25Index
from datamodules.choices import Choice
from datamodules.passages import KnowledgeBase
from datamodules.qa_datamodule import QuestionDataModule
from lightning_modules.candidates import Candidates, other_passages
from lightning_modules.eval_mode import eval_mode
from lightning_modules.evaluation import Evaluation, ReadQuestions, find_hits
from lightning_modules.metrics.indicators import AttentionNormalization
from lightning_modules.metrics.question_mean import QuestionMean
from lightning_modules.metrics.units import passage_units
from lightning_modules.objectives import ADist, Constants, Labels, Objective
from lightning_modules.objectives.base import Cost, Passes, TeachingPasses, check_prompt_total
from lightning_modules.optimization import LearningRate, make_optimizer
from lightning_modules.parts_of_batch import Losses, PartsOfBatch
from lightning_modules.processes import gather, gather_rows, weight_of_share
from lightning_modules.read_once import ReadOnce, why_not_kept
from lightning_modules.readers.base import Reader, TokenEmbeddings
from lightning_modules.readers.outputs import AnswerOutput
from lightning_modules.retrieval import RETRIEVED_TOGETHER, RetrievalModule
from lightning_modules.retriever import Retriever
from lightning_modules.scores import log_p_retr
from lightning_modules.sharding import ShardedLayers
from lightning_modules.token_drops import TokenDrops


class AnswerChoice(Choice):
    """Which of a question's acceptable answers a training step scores."""

    SAMPLED = "sampled"
    """Another one each time (Atlas on NQ)."""
    PREFERRED = "preferred"
    """The first, as evaluations do: a frozen reader then reads each pair once."""
    CANONICAL = "canonical"
    """The one that the data single out (Atlas on TriviaQA)."""


@dataclass(frozen=True)
class StepRows:
    """Questions of a training step, and which of them gave something that is not a number.

    Attributes:
        question_ids: of B questions.
        is_nan: whether p_ATTN or p_RETR of each is not a number.
    """

    question_ids: list[str]
    is_nan: Bool[Tensor, " batch"]

    def broken_ids(self) -> list[str]:
        """Of those that are not numbers; where the loss alone is none, of all of them."""
        rows = zip(self.question_ids, self.is_nan.tolist(), strict=True)
        return [question_id for question_id, is_nan in rows if is_nan] or self.question_ids


class RetrieverReaderModule(RetrievalModule):
    r"""Trains a retriever from a reader, the reader on the answers, or both.

    .. math::
        p_{RETR}(n_i | Q) &= \mathrm{softmax}_i ( s(n_i, Q) / \theta )  \\
        L &= \mathrm{KL}(p_{ATTN} \,\|\, p_{RETR})

    Eq. 2 and the loss of "What Makes Attention Distillation Work?"; p_ATTN (Eq. 1), or what another objective
    has in its place, is the `objective`'s.

    Args:
        retriever, reader: the two models; no reader where the objective asks none, whose evaluations then
            retrieve alone.
        knowledge_base: the passages D.
        train_retriever, train_reader: off-the-shelf distillation trains both, Step 1 the reader alone,
            Step 2 the retriever alone.
        retriever_rate, reader_rate: learning rates.
        objective: what of the reader the retriever learns from; None = ADist, the paper's.
        retrieval_temperature: theta; None = `callbacks.fit_temperature.FitTemperature` derives it, or it is
            that of the checkpoint that the run goes on from.
        in_batch: whether the passages of a batch's other questions stand beside a question's own in training:
            p_RETR is over all of them, the target has no mass on the others, and the reader reads no more.
        num_passages, rerank_from, answer_match, hit_rate_ks, candidates, bm25: see `RetrievalModule`.
        num_read: questions that an evaluation reads (generation, indicators, KL), the first ones, of all
            processes together; all are retrieved for. None = all.
        generate: whether evaluations generate answers too (EM, F1).
        max_new_tokens: of a generated answer.
        token_embeddings: what the indicators' similarities are computed from, `input` or `contextual`.
        attention_normalization: of the attention in the indicators.
        read_once: keeps what the frozen reader gave for each pair; None = it reads every time.
        token_drops: where likelihoods teach, how the indicators' token scores are found: `masked`,
            `masked_prompt` or `gradient`.
        shard_reader: whether the processes of a run share the layers of a frozen decoder-only reader, each
            holding a part of every layer (FSDP).
        weight_decay: of the optimizer.
        auto_batch: whether a training batch that does not fit into the memory is computed in parts, with the
            same result; in one process, or several that share no reader, and not with `in_batch`, EMDR2 by
            Atlas's constants, or a trainer that scales the loss (`16-mixed`).
        answer_choice: which of several answers is scored in training.
        seed: of the choice among several answers in training, and of shuffled passages.

    Attributes:
        step_rows: of the latest training step, one for each part that it was computed in.

    Raises:
        ValueError: fewer passages than the objective needs, a reader that it cannot learn from, or one that
            `read_once` cannot keep; attention normalised over a prompt of which passages alone are scored; a
            batch that cannot be computed in parts.
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
        objective: Objective | None = None,
        retrieval_temperature: float | None = 1.0,
        in_batch: bool = False,
        num_passages: int = 5,
        rerank_from: int | None = None,
        answer_match: AnswerMatch | str = AnswerMatch.TOKENS,
        hit_rate_ks: Sequence[int] = (1, 5, 20),
        candidates: Candidates | None = None,
        bm25: BM25Index | None = None,
        num_read: int | None = None,
        generate: bool = True,
        max_new_tokens: int = 32,
        token_embeddings: TokenEmbeddings | str = TokenEmbeddings.INPUT,
        attention_normalization: AttentionNormalization | str = AttentionNormalization.PASSAGE,
        token_drops: TokenDrops | str = TokenDrops.MASKED,
        read_once: ReadOnce | None = None,
        answer_choice: AnswerChoice | str = AnswerChoice.SAMPLED,
        shard_reader: bool = False,
        weight_decay: float = 0.0,
        auto_batch: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            retriever,
            knowledge_base,
            num_passages=num_passages,
            rerank_from=rerank_from,
            answer_match=answer_match,
            hit_rate_ks=hit_rate_ks,
            candidates=candidates,
            bm25=bm25,
            num_read=num_read,
            generate=generate,
        )
        self.objective: Objective[Any] = (objective or ADist()).judged_by(self.answer_match)
        if num_passages < self.objective.fewest_passages:
            raise ValueError(
                f"num_passages is {num_passages}; objective {self.objective.name} needs at least "
                f"{self.objective.fewest_passages}"
            )
        if reader is None:
            if self.objective.uses_reader or train_reader:
                raise ValueError(f"reader: objective {self.objective.name} asks one, and there is none")
        elif (refusal := self.objective.unfit(reader)) is not None:
            raise ValueError(f"objective: {refusal}")
        check_prompt_total(type(self.objective), attention_normalization, token_drops)
        if in_batch and not self.objective.takes_others:
            raise ValueError(
                f"in_batch: objective {self.objective.name} is about a question's own passages; set "
                "in_batch=False, or take another objective"
            )
        if read_once is not None and reader is not None:
            refusal = why_not_kept(reader, train_reader, token_embeddings)
            if refusal is not None:
                raise ValueError(f"read_once: {refusal}")
        if shard_reader and reader is not None:
            refusal = _why_not_sharded(
                reader, train_reader, self.objective, TokenDrops(token_drops), read_once
            )
            if refusal is not None:
                raise ValueError(f"shard_reader: {refusal}")
        self.shard_reader = shard_reader and reader is not None
        if auto_batch and (in_batch or self.shard_reader):
            raise ValueError(
                "auto_batch: a batch cannot be computed in parts where in_batch=True compares its questions, "
                "or shard_reader=True has all processes read together; set auto_batch=False"
            )
        constants = self.objective.constants
        if auto_batch and train_retriever and not self.objective.averages_over_questions(constants):
            raise ValueError(
                f"auto_batch: a batch cannot be computed in parts where objective {self.objective.name} with "
                f"constants={constants} averages over the tokens of all its answers; set auto_batch=False, "
                "or constants=plain"
            )
        self.parts = PartsOfBatch() if auto_batch else None
        self.step_rows: list[StepRows] = []
        self._sharded_layers: ShardedLayers | None = None
        self.read_once = read_once
        self.reader: Reader = reader  # type: ignore[assignment]  # None where nothing asks it
        self.train_retriever = train_retriever
        self.train_reader = train_reader
        self.retriever_rate = retriever_rate or LearningRate(1e-5)
        self.reader_rate = reader_rate or LearningRate(1e-5)
        self.retrieval_temperature = retrieval_temperature
        self.in_batch = in_batch
        self.max_new_tokens = max_new_tokens
        self.token_embeddings = TokenEmbeddings(token_embeddings)
        self.attention_normalization = AttentionNormalization(attention_normalization)
        self.token_drops = TokenDrops(token_drops)
        self.weight_decay = weight_decay
        self.answer_choice = AnswerChoice(answer_choice)
        self.seed = seed
        self.evaluation_loss = QuestionMean()
        self._fixed_candidates: dict[str, list[list[int]]] = {}  # what each source found, by question id
        self._retriever_learns = True
        # models come in eval mode from where they are loaded, and Lightning leaves the mode as it is
        for model, is_trained in ((self.retriever, train_retriever), (self.reader, train_reader)):
            if model is None:
                continue
            model.train(is_trained)
            if not is_trained:
                model.requires_grad_(False)

    @property
    def retriever_learns(self) -> bool:
        """Whether the retriever learns: False = it stays as it is, while the reader trains on.

        A switch for a run that trains both. It is part of the checkpoint.
        """
        return self.train_retriever and self._retriever_learns

    @retriever_learns.setter
    def retriever_learns(self, learns: bool) -> None:
        self._retriever_learns = learns
        if not learns:
            # no gradient is left over for the optimizer, which skips parameters that have none
            self.retriever.zero_grad(set_to_none=True)

    # ---- the step, in the order of the paper ----

    def training_step(self, questions: list[Question], batch_idx: int) -> Tensor:
        """Retrieve -> the losses, where the memory is short part by part."""
        with self.timer.part("retrieve"):
            batch = self._batch_of_step(questions, batch_idx)  # Q, D_n, A
        self.step_rows = []
        if self.parts is None:
            losses = self._losses(batch)
        else:
            weights = [weight for weight in self.parameters() if weight.requires_grad]
            losses = self.parts.losses(self._losses, batch, weights)
        loss = self._log_losses(losses, len(questions))
        if self.train_retriever and not self.retriever_learns and self.trainer.world_size > 1:
            # processes that wait for each other's gradients wait for those of all weights
            loss = loss + sum(0.0 * w.sum() for w in self.retriever.parameters() if w.requires_grad)
        return loss

    def _losses(self, batch: Batch) -> Losses:
        """Read (answer attention) -> p_ATTN; encode with gradient -> p_RETR; KL."""
        losses = {}
        with self.timer.part("read"), self._passes_of_all():
            student = self.reader.read_answer(batch) if self.train_reader else None  # with gradient
            output = self._read(batch, student) if self.retriever_learns else None  # without
        with self.timer.part("encode"):
            log_p_retr = self.log_p_retr(batch, in_batch=self.in_batch)  # Eq. 2
            log_p_own = log_p_retr.log_softmax(dim=-1) if self.in_batch else log_p_retr
        is_nan = log_p_own.isnan().any(dim=-1)
        if self.retriever_learns:
            with self.timer.part("teach"):
                log_p_target = self.objective.log_p_target(output, log_p_own)  # Eq. 1
                losses[self.objective.loss_name] = self.objective.loss(log_p_target, log_p_retr, output)  # KL
            is_nan = is_nan | log_p_target.isnan().any(dim=-1)
        if student is not None:
            losses["reader_loss"] = self.reader.answer_loss(student, log_p_own)
        self.step_rows.append(StepRows([question.id for question in batch.questions], is_nan.detach()))
        return losses

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Timed, since it takes longer than all else where the reader is frozen."""
        with self.timer.part("backward"):
            super().backward(loss, *args, **kwargs)

    def on_after_backward(self) -> None:
        """Leaves no gradient of a retriever that does not learn, not even zeros: momentum would move it."""
        if self.train_retriever and not self.retriever_learns:
            self.retriever.zero_grad(set_to_none=True)

    def _batch_of_step(self, questions: list[Question], batch_idx: int) -> Batch:
        """The questions with their candidates, and one answer of each."""
        seed = self.seed + 1009 * self.global_step + batch_idx
        answers = [_choose_answer(question, self.answer_choice, seed) for question in questions]
        return Batch(questions, self._passages_of_step(questions, seed), answers, seed)

    def _passages_of_step(self, questions: list[Question], seed: int) -> list[list[Passage]]:
        """D_n: what retrieval finds, or K of the passages that the objective teaches about."""
        if not self.objective.brings_passages:
            return self.retrieve_candidates(questions, seed)
        own = [(question.id, self.objective.passages_of(question)) for question in questions]
        return [
            [found[i] for i in self.candidates.choose([range(len(found))], self.num_passages, (seed, of))]
            for of, found in own
        ]

    def on_train_start(self) -> None:
        """Finds fixed candidates before the retriever moves; a resumed run has them from its checkpoint."""
        self._refuse_dealt_batches()
        self._refuse_scaled_losses()
        if not self.candidates.are_fixed or self._fixed_candidates or self.objective.brings_passages:
            return
        datamodule = getattr(self.trainer, "datamodule", None)
        if not isinstance(datamodule, QuestionDataModule):
            raise ValueError(
                "candidates: are_fixed=True finds them for all training questions at once; fit with a "
                "QuestionDataModule"
            )
        with self.timer.part("find_candidates"):
            for questions in in_batches(datamodule.train, RETRIEVED_TOGETHER):
                found = super()._rank_candidates(questions)
                self._fixed_candidates |= dict(zip((q.id for q in questions), found, strict=True))

    def _refuse_dealt_batches(self) -> None:
        """Each process would get a share of a share of the questions."""
        of_datamodule = isinstance(getattr(self.trainer, "datamodule", None), QuestionDataModule)
        sampler = getattr(self.trainer.train_dataloader, "sampler", None)
        if of_datamodule and isinstance(sampler, DistributedSampler):
            raise ValueError(
                "use_distributed_sampler: QuestionDataModule itself deals the questions out to processes; "
                "give the trainer use_distributed_sampler=False"
            )

    def _refuse_scaled_losses(self) -> None:
        """The gradients of parts are made before the loss is scaled, so that small ones would become 0."""
        if self.parts is not None and getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise ValueError(
                "auto_batch: the gradients of parts would lose what 16-mixed scales the loss for; give the "
                "trainer precision='bf16-mixed' or '32-true', or set auto_batch=False"
            )

    def _rank_candidates(self, questions: Sequence[Question]) -> list[list[list[int]]]:
        """Those that were fixed, in training; what is found now, in evaluations."""
        if self._fixed_candidates and self._trainer is not None and self.trainer.training:
            return [self._fixed_candidates[question.id] for question in questions]
        return super()._rank_candidates(questions)

    def _read(self, batch: Batch, student: AnswerOutput | None = None, passes: Passes | None = None) -> Any:
        """What the objective needs of the reader, in eval mode (no dropout) and without gradient.

        Taken from the student's pass where that cannot differ, and by way of `passes` where they are given:
        those of a step keep nothing that it does not look at.
        """
        if student is not None and not self.reader.has_dropout:
            output = self.objective.from_student(student)
            if output is not None:
                return output
        in_eval_mode = contextlib.nullcontext() if self.reader is None else eval_mode(self.reader)
        with torch.no_grad(), in_eval_mode:
            return self.objective.read(passes or self.read_once or TeachingPasses(self.reader), batch)

    @torch.no_grad()
    def log_p_target(self, batch: Batch) -> Float[Tensor, "batch passages"]:
        """The teacher's log-distribution over some passages (Eq. 1): what a training step would distil."""
        output = self._read(batch)
        with eval_mode(self.retriever):
            log_p_retr = self.log_p_retr(batch)
        return self.objective.log_p_target(output, log_p_retr)

    def log_p_retr(self, batch: Batch, in_batch: bool = False) -> Float[Tensor, "batch passages"]:
        """log p_RETR (Eq. 2) from fresh embeddings, with gradient where the retriever learns.

        Args:
            batch: questions with their passages.
            in_batch: over the passages of the batch's other questions too, which leaves less than 1 for the
                question's own.
        """
        if self.retriever_learns:
            return self._log_p_retr(batch, in_batch)
        with torch.no_grad(), eval_mode(self.retriever):
            return self._log_p_retr(batch, in_batch)

    def _log_p_retr(self, batch: Batch, in_batch: bool) -> Float[Tensor, "batch passages"]:
        if self.retrieval_temperature is None:
            raise ValueError(
                "retrieval_temperature=None is derived before the start is measured: give the trainer "
                "callbacks.fit_temperature.FitTemperature after RefreshIndex, or a number"
            )
        queries = self.retriever.encode_queries([question.text for question in batch.questions])
        flat = self.retriever.encode_passages([passage for found in batch.passages for passage in found])
        shape = (-1, batch.num_passages, flat.shape[-1])
        is_other = of_all = None
        if in_batch:  # the batch is that of all processes
            passages = gather(self.trainer, list(batch.passages))
            is_other = other_passages(batch.passages, passages)
            if isinstance(self.objective, Labels):
                is_other &= ~self.objective.positives_among(batch.questions, passages)
            is_other = is_other.to(self.device)
            of_all = gather_rows(self, flat).view(shape)
        return log_p_retr(
            queries,
            flat.view(shape),
            self.retrieval_temperature,
            divide_by_sqrt_dim=self.objective.constants is Constants.ATLAS,
            is_other=is_other,
            of_all=of_all,
        )

    def _log_losses(self, losses: dict[str, Tensor], batch_size: int) -> Tensor:
        """Their sum; its mean over the processes is that of all questions of the step."""
        weight = weight_of_share(self, batch_size)
        losses = {name: weight * value for name, value in losses.items()}
        loss = torch.stack(list(losses.values())).sum()
        for name, value in {**losses, "loss": loss}.items():
            is_shown = name != "loss"
            self.log(
                f"train/{name}", value.detach(), prog_bar=is_shown, batch_size=batch_size, sync_dist=True
            )
        for part, seconds in self.timer.last_s.items():
            self.log(f"time/{part}_s", seconds, batch_size=batch_size)
        self.log("step", float(self.global_step + 1), batch_size=batch_size)  # Lightning would count from 0
        return loss

    # ---- evaluation ----

    @torch.no_grad()
    def evaluate(self, questions: list[Question]) -> Evaluation:
        """Retrieves for some questions, and reads those of them that this evaluation reads."""
        evaluation = super().evaluate(questions)
        with self._passes_of_all():
            return self._read_some(evaluation, questions)

    def _read_some(self, evaluation: Evaluation, questions: list[Question]) -> Evaluation:
        if self.reader is None:
            return evaluation
        num_read = self.take_to_read(len(questions))
        asked = questions[:num_read]
        found = [passages[: self.num_passages] for passages in evaluation.passages[:num_read]]
        candidates = self._evaluated_candidates(asked, found)  # a search, in which all processes take part
        # a reader scores an answer; questions with judged passages in place of answers are retrieved for
        if not any(question.answers for question in asked):
            return evaluation
        read = self.read_questions(Batch(asked, candidates, preferred_answers(asked)))
        self.evaluation_loss.update(read.loss, num_read)
        evaluation = replace(evaluation, read=read)
        if self.generate:
            with self.timer.part("generate"):
                predictions = self._answer(read, found)
            self.score_answers(predictions, asked)
            evaluation = replace(evaluation, predictions=predictions)
        return evaluation

    def _evaluated_candidates(
        self, questions: list[Question], found: list[list[Passage]]
    ) -> list[list[Passage]]:
        """The candidates, which are what was found where the index gives its first ones."""
        return found if self.candidates.are_retrieved else self.retrieve_candidates(questions)

    def _answer(self, read: ReadQuestions, found: list[list[Passage]]) -> list[str]:
        """Answers from what the retriever finds, whatever the candidates are."""
        batch, log_p_retr = read.batch, read.log_p_retr
        if found != batch.passages:
            batch = replace(batch, passages=found)
            with eval_mode(self.retriever):
                log_p_retr = self.log_p_retr(batch)
        return self.reader.generate(batch, log_p_retr, self.max_new_tokens)

    @torch.no_grad()
    def read_questions(self, batch: Batch, passes: Passes | None = None) -> ReadQuestions:
        """What reader and retriever make of a batch: the pass that training makes, and what it looks at.

        Validation, test, pre-flight check and analysis all read by it.

        Args:
            batch: questions with their passages, and the answers that are scored.
            passes: what makes the reader's passes; None = `read_once`, or the reader.
        """
        has_answer = find_hits(batch.questions, batch.passages, self.answer_match).to(self.device)
        passes = passes or self.read_once or self.reader
        with self.timer.part("read_evaluation"):
            output = self._read(batch, passes=passes)
            with eval_mode(self.reader):
                tokens = self.objective.read_tokens(passes, batch, output, self.token_drops)
            with eval_mode(self.retriever):
                log_p_retr = self.log_p_retr(batch)
            log_p_target = self.objective.log_p_target(output, log_p_retr)
        return ReadQuestions(
            has_answer,
            log_p_target,
            passage_units(tokens, self.reader, self.token_embeddings, self.attention_normalization),
            batch,
            tokens,
            log_p_retr,
            self.objective.loss(log_p_target, log_p_retr, output),
        )

    def log_evaluation(self, stage: str) -> None:
        """See `RetrievalModule.log_evaluation`; also the loss, EM and F1."""
        super().log_evaluation(stage)
        # every process must join in, also one that has read nothing
        if self.trainer.strategy.reduce_boolean_decision(self.evaluation_loss.update_called, all=False):
            self.log(f"{stage}/{self.objective.loss_name}", self.evaluation_loss.compute())
        self.log_answer_scores(stage)

    # ---- what Lightning asks for ----

    def configure_model(self) -> None:
        """Shards the reader once the processes are connected."""
        if self.shard_reader and self._sharded_layers is None and self.trainer.world_size > 1:
            self._sharded_layers = self.reader.shard(self.trainer.strategy.root_device)
            # nothing of it is the same in two processes, nor has gradients
            self._ddp_params_and_buffers_to_ignore = [f"reader.{name}" for name in self.reader.state_dict()]

    def _passes_of_all(self) -> contextlib.AbstractContextManager[None]:
        """The reader's passes of a step inside, in which all processes take part where they share it."""
        return (
            contextlib.nullcontext() if self._sharded_layers is None else self._sharded_layers.passes_of_all()
        )

    def configure_optimizers(self) -> Any:
        models: list[tuple[nn.Module, LearningRate]] = []
        if self.train_retriever:
            models.append((self.retriever, self.retriever_rate))
        if self.train_reader:
            models.append((self.reader, self.reader_rate))
        num_steps = int(self.trainer.estimated_stepping_batches)
        optimizer, schedule = make_optimizer(models, num_steps, self.weight_decay)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves what is not trained out, such as all but its adapters: it is where it was loaded from."""
        models = tuple(f"{name}." for name in ("retriever", "reader") if not getattr(self, f"train_{name}"))
        parameters = self.named_parameters(remove_duplicate=False)
        frozen = {name for name, weight in parameters if not weight.requires_grad}
        checkpoint["state_dict"] = {
            name: weight
            for name, weight in checkpoint["state_dict"].items()
            if name not in frozen and not name.startswith(models)
        }
        checkpoint["retriever_learns"] = self._retriever_learns
        checkpoint["fixed_candidates"] = self._fixed_candidates
        checkpoint["retrieval_temperature"] = self.retrieval_temperature
        checkpoint["questions_a_part"] = None if self.parts is None else self.parts.num_questions

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        held = checkpoint["state_dict"].keys()
        for name in ("retriever", "reader"):
            if getattr(self, f"train_{name}") and not any(key.startswith(f"{name}.") for key in held):
                raise ValueError(f"the checkpoint holds no weights of the {name}, which this run trains")
        self.retriever_learns = checkpoint["retriever_learns"]
        self._fixed_candidates = checkpoint["fixed_candidates"]
        if self.retrieval_temperature is None:  # derived at the start, and not anew of what is trained since
            self.retrieval_temperature = checkpoint.get("retrieval_temperature")
        if self.parts is not None:
            self.parts.num_questions = checkpoint.get("questions_a_part")


def _why_not_sharded(
    reader: Reader, is_trained: bool, objective: Objective, drops: TokenDrops, read_once: ReadOnce | None
) -> str | None:
    """Why processes cannot share a reader; None = they can."""
    if is_trained:
        return "the reader is trained, and a frozen one alone can be sharded"
    if objective.cost is Cost.BACKWARD or drops.needs_gradient:
        return "a gradient through the reader is needed, which is sharded for reading alone"
    if read_once is not None:
        return "read_once looks at whole weights to know whose outputs it keeps"
    return reader.why_not_sharded()


def preferred_answers(questions: Sequence[Question]) -> list[str]:
    """The answers that evaluations score: of each question the first.

    Raises:
        ValueError: a question has none.
    """
    for question in questions:
        if not question.answers:
            raise ValueError(
                f"question {question.id} ({question.text!r}) has no answer, and what a reader makes of its "
                "passages is measured by one; give answers, or other questions"
            )
    return [question.answers[0] for question in questions]


def _choose_answer(question: Question, how: AnswerChoice, seed: int) -> str:
    """One of the acceptable answers, the same for the same question and seed; "" where none is known.

    Raises:
        ValueError: the canonical one is asked for, and the data name none.
    """
    if not question.answers:
        return ""
    match how:
        case AnswerChoice.PREFERRED:
            return question.answers[0]
        case AnswerChoice.SAMPLED:
            return random.Random(f"{seed} {question.id}").choice(question.answers)
        case AnswerChoice.CANONICAL:
            if not question.canonical_answer:
                raise ValueError(
                    f"answer_choice=canonical, but question {question.id} has no canonical answer; set "
                    "answer_choice=sampled or answer_choice=preferred"
                )
            return question.canonical_answer
        case _:
            assert_never(how)
