"""A unit (question, retrieved passage) with all that is known of its tokens, and its columns in a file."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class TokenUnit:
    """A row of the file: how a reader read one retrieved passage.

    Attributes:
        question_id, question, answers: of the question.
        answer: the one that was scored.
        rank: from 0; the units of a question stand together, by rank.
        passage_id, title: of the passage.
        holds_answer_tokens, holds_answer_substring: whether its text does, by the rules of `AnswerMatch`.
        p_attn: what the teacher gives the passage.
        log_p_attn: its logarithm, which tells passages apart whose p_attn is 0.
        p_retr: what the retriever gives it.
        token_ids: tokens of its title and text, as far as the reader saw them.
        token_texts: the same as pieces of text.
        token_scores: s_t, unnormalised.
        prompt_total: sum of the scores over the whole prompt; NaN where passages' tokens alone have one.
        answer_similarity_input, answer_similarity_contextual: similarity of each token to the answer, by the
            reader's embedding matrix and by its last hidden layer; None where there is no answer token.
        noun_similarity_input, noun_similarity_contextual: to the question's nouns; None where it has none.
    """

    question_id: str
    question: str
    answers: Sequence[str]
    answer: str
    rank: int
    passage_id: str
    title: str
    holds_answer_tokens: bool
    holds_answer_substring: bool
    p_attn: float
    log_p_attn: float
    p_retr: float
    token_ids: Sequence[int] | np.ndarray
    token_texts: Sequence[str]
    token_scores: Sequence[float] | np.ndarray
    prompt_total: float
    answer_similarity_input: Sequence[float] | np.ndarray | None
    answer_similarity_contextual: Sequence[float] | np.ndarray | None
    noun_similarity_input: Sequence[float] | np.ndarray | None
    noun_similarity_contextual: Sequence[float] | np.ndarray | None


_FLOATS = pa.list_(pa.float32())
_TYPES = {
    "answers": pa.list_(pa.string()),
    "rank": pa.int32(),
    "holds_answer_tokens": pa.bool_(),
    "holds_answer_substring": pa.bool_(),
    "p_attn": pa.float32(),
    "log_p_attn": pa.float32(),
    "p_retr": pa.float32(),
    "token_ids": pa.list_(pa.int32()),
    "token_texts": pa.list_(pa.string()),
    "token_scores": _FLOATS,
    "prompt_total": pa.float32(),
    "answer_similarity_input": _FLOATS,
    "answer_similarity_contextual": _FLOATS,
    "noun_similarity_input": _FLOATS,
    "noun_similarity_contextual": _FLOATS,
}
SCHEMA = pa.schema(
    [(field.name, _TYPES.get(field.name, pa.string())) for field in dataclasses.fields(TokenUnit)]
)
