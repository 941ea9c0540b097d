"""Does a passage hold an answer, and how well does a prediction match one?  Pure functions.

The rules are those of the papers compared with, bit for bit: DPR and FiD for retrieved passages, SQuAD (as in
Atlas, `src/evaluation.py`) for predictions.
"""

import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import assert_never

import regex

from datamodules.batches import Passage, Question
from datamodules.choices import Choice
from datamodules.errors import DataError

# DPR's SimpleTokenizer: runs of letters, numbers and marks, or one other visible character.
_TOKEN = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")
# `regex`, not `re`: its \b takes combining marks for part of the word, so NFD "á" is no article.
_ARTICLES = regex.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


class AnswerMatch(Choice):
    """What it takes for a passage to hold an answer.

    Attributes:
        TOKENS: the answer's tokens in a row (NFD, lower case): the DPR and FiD rule. An answer without any
            token, such as "", is in every text.
        SUBSTRING: the normalised answer is a substring of the normalised text. An answer of which the
            normalisation leaves nothing is in no text.
    """

    TOKENS = "tokens"
    SUBSTRING = "substring"


class AnswerMatcher:
    """Answers prepared once, to be looked for in many texts.

    Args:
        answers: acceptable answers; with none, nothing matches.
        match: the rule, see `AnswerMatch`.

    Raises:
        DataError: `answers` is one string instead of several, or `match` is unknown.

    Example:
        >>> AnswerMatcher(["New York"]).matches("in new york.")
        True
    """

    def __init__(self, answers: Sequence[str], match: AnswerMatch | str = AnswerMatch.TOKENS) -> None:
        _refuse_one_string(answers)
        self._match = AnswerMatch(match)
        prepared = dict.fromkeys(self._prepare(answer) for answer in answers)
        self._needles = [n for n in prepared if n or self._match is not AnswerMatch.SUBSTRING]

    def matches(self, text: str) -> bool:
        """Whether `text` holds at least one of the answers."""
        if not self._needles:
            return False
        haystack = self._prepare(text)
        return any(needle in haystack for needle in self._needles)

    def _prepare(self, text: str) -> str:
        match self._match:
            case AnswerMatch.SUBSTRING:
                return normalize_answer(text)
            case AnswerMatch.TOKENS:
                # No token holds a space, so between spaces a substring is a run of whole tokens.
                return " ".join(["", *dpr_tokens(text), ""])
            case _:
                assert_never(self._match)


class HitMatcher:
    """Which passages are hits for a question: those judged relevant to it where somebody has judged, else
    those whose text holds an answer (the title does not count: DPR, FiD).

    Args:
        question: with its answers or its `positives`.
        match: the rule for answers, see `AnswerMatch`.
    """

    def __init__(self, question: Question, match: AnswerMatch | str = AnswerMatch.TOKENS) -> None:
        self._positives = question.positives
        self._answers = AnswerMatcher(() if question.positives else question.answers, match)

    def matches(self, passage: Passage) -> bool:
        """Whether it is a hit."""
        if self._positives:
            return passage.id in self._positives
        return self._answers.matches(passage.text)


def has_answer(text: str, answers: Sequence[str], match: AnswerMatch | str = AnswerMatch.TOKENS) -> bool:
    """Whether `text` holds at least one of `answers`; `AnswerMatcher` is quicker for many texts.

    Raises:
        DataError: `answers` is one string instead of several, or `match` is unknown.
    """
    return AnswerMatcher(answers, match).matches(text)


def dpr_tokens(text: str) -> list[str]:
    """Lower-case tokens of the NFD-normalised text, as DPR's `SimpleTokenizer` cuts them."""
    tokens = _TOKEN.findall(unicodedata.normalize("NFD", text))
    # Lower-cased after the cut: the lower case of Σ depends on its neighbours.
    return [token.lower() for token in tokens]


def normalize_answer(text: str) -> str:
    """SQuAD's normalisation: lower case, no ASCII punctuation, no English articles, single spaces."""
    bare = text.lower().translate(_WITHOUT_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 where the normalised prediction equals one of the normalised answers, else 0.0.

    Raises:
        DataError: there are no answers, or `answers` is one string instead of several.
    """
    _refuse_none(answers)
    normalized = normalize_answer(prediction)
    return float(any(normalized == normalize_answer(answer) for answer in answers))


def f1_score(prediction: str, answers: Sequence[str]) -> float:
    """Best F1 over the answers, 0..1, of the words shared after normalisation.

    As in SQuAD 1.1 and Atlas, two texts of which the normalisation leaves nothing score 0.

    Raises:
        DataError: there are no answers, or `answers` is one string instead of several.
    """
    _refuse_none(answers)
    words = normalize_answer(prediction).split()
    return max(_f1(words, normalize_answer(answer).split()) for answer in answers)


def _f1(predicted: list[str], expected: list[str]) -> float:
    shared = (Counter(predicted) & Counter(expected)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(expected)
    return 2 * precision * recall / (precision + recall)


def _refuse_none(answers: Sequence[str]) -> None:
    _refuse_one_string(answers)
    if not answers:
        raise DataError("there are no answers to compare the prediction with; give at least one")


def _refuse_one_string(answers: Sequence[str]) -> None:
    # A string is a sequence of strings too, and its letters are found everywhere.
    if isinstance(answers, str):
        raise DataError(f"answers must be a list of strings, not the string {answers!r}; write [{answers!r}]")
