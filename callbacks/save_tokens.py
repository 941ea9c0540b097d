"""Keeps every token score and similarity of a test."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from lightning import LightningModule, Trainer
from torch import Tensor

from callbacks.evaluation_callback import EvaluationCallback
from datamodules.answer_matching import AnswerMatch
from datamodules.batches import Question
from datamodules.token_file import TokenFileWriter
from datamodules.token_pieces import token_pieces
from datamodules.token_units import TokenUnit
from lightning_modules.evaluation import Evaluation, ReadQuestions, find_hits
from lightning_modules.metrics.indicators import AttentionNormalization
from lightning_modules.metrics.units import PassageUnits, passage_units
from lightning_modules.readers.base import Reader, TokenEmbeddings
from lightning_modules.retriever_reader import RetrieverReaderModule


class SaveTokens(EvaluationCallback):
    """Writes a token file from the questions that a test reads.

    One pass gives both similarities: the contextual ones from its last hidden layer, the others from the
    embedding matrix. The file appears when the test is over; an error or Ctrl-C leaves none.

    Args:
        path: of the token file.
        info: see `TokenFileWriter`.
    """

    def __init__(self, path: Path | str, info: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.info = info
        self._writer: TokenFileWriter | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._writer = TokenFileWriter(self.path, self.info)

    def on_tested(self, trainer: Trainer, pl_module: LightningModule, evaluation: Evaluation) -> None:
        assert isinstance(pl_module, RetrieverReaderModule)
        assert self._writer is not None
        if evaluation.read is not None:
            self._writer.write(units_of(evaluation.read, pl_module.reader))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._writer is not None
        self._writer.close()
        self._writer = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._writer is not None:
            self._writer.discard()
            self._writer = None


def units_of(read: ReadQuestions, reader: Reader) -> list[TokenUnit]:
    """The units of a batch, question by question, each question's by rank, with both kinds of similarities.

    Args:
        read: questions that were read.
        reader: that read them.
    """
    plain, contextual = (
        _on_cpu(passage_units(read.output, reader, embeddings, AttentionNormalization.NONE))
        for embeddings in (TokenEmbeddings.INPUT, TokenEmbeddings.CONTEXTUAL)
    )
    place = zip(plain.question_of_unit.tolist(), plain.rank_of_unit.tolist(), strict=True)
    unit_at = {question_and_rank: unit for unit, question_and_rank in enumerate(place)}
    input_ids, batch = read.output.prompts.input_ids.cpu(), read.batch
    log_p_attn = read.log_p_target.float()
    p_attn, p_retr = log_p_attn.exp().tolist(), read.log_p_retr.float().exp().tolist()
    hits = {match: find_hits(batch.questions, batch.passages, match).tolist() for match in AnswerMatch}
    units = []
    for row, question in enumerate(batch.questions):
        for rank, passage in enumerate(batch.passages[row]):
            unit = unit_at.get((row, rank))
            ids = [] if unit is None else input_ids[plain.prompt_of_unit[unit]][plain.mask[unit]].tolist()
            units.append(
                TokenUnit(
                    **_of_question(question, batch.answers[row]),
                    rank=rank,
                    passage_id=passage.id,
                    title=passage.title,
                    holds_answer_tokens=hits[AnswerMatch.TOKENS][row][rank],
                    holds_answer_substring=hits[AnswerMatch.SUBSTRING][row][rank],
                    p_attn=p_attn[row][rank],
                    log_p_attn=float(log_p_attn[row, rank]),
                    p_retr=p_retr[row][rank],
                    token_ids=ids,
                    token_texts=token_pieces(reader.tokenizer, ids),
                    **_scores(plain, contextual, unit),
                )
            )
    return units


def _of_question(question: Question, answer: str) -> dict[str, Any]:
    return {
        "question_id": question.id,
        "question": question.text,
        "answers": question.answers,
        "answer": answer,
    }


def _scores(plain: PassageUnits, contextual: PassageUnits, unit: int | None) -> dict[str, Any]:
    """What was measured of a unit's tokens; of none where the reader saw nothing of the passage."""
    if unit is None:
        names = [f"{target}_similarity_{kind}" for target in ("answer", "noun") for kind in _KINDS]
        return {"token_scores": [], "prompt_total": float("nan"), **dict.fromkeys(names)}
    mask = plain.mask[unit]
    return {
        "token_scores": plain.attention[unit][mask].numpy(),
        "prompt_total": float(plain.prompt_total[unit]),
        **{
            f"{target}_similarity_{kind}": _similarity(getattr(units, f"{target}_similarity")[unit][mask])
            for target in ("answer", "noun")
            for kind, units in zip(_KINDS, (plain, contextual), strict=True)
        },
    }


_KINDS = ("input", "contextual")


def _similarity(of_tokens: Tensor) -> np.ndarray | None:
    return None if bool(of_tokens.isnan().any()) else of_tokens.numpy()


def _on_cpu(units: PassageUnits) -> PassageUnits:
    return PassageUnits(**{field.name: getattr(units, field.name).cpu() for field in fields(PassageUnits)})
