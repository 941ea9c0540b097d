"""What every single question of Vital QA must satisfy.  Pure functions: entry -> messages."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from spacy.lang.en.stop_words import STOP_WORDS

from datamodules.answer_matching import AnswerMatcher
from datamodules.vital.entries import Article, Entry

QUESTION_WORDS = range(5, 21)
ANSWER_WORDS = range(1, 6)
# Of a question's content words, this share or more in the passage's order makes it liftable.
LIFTABLE_SHARE = 0.5

_POINTS_AT_PASSAGE = re.compile(
    r"\b(this|these|according to|the (passage|text|article|paragraph|above|following))\b"
)
# A pronoun before anything that it could stand for.  "it" is let pass after a question word, for
# "what is it called when ..." points forward.
_NO_REFERENT = re.compile(
    r"^(he|she|it|they|his|her|its|their)\b"
    r"|^(who|whom|whose|what|when|where|which|how( \w+)?)"
    r" (is|are|was|were|do|does|did|has|have|had|can|could|will|would)"
    r" (he|she|they|his|her|their|him|them)\b"
)
_WHY = re.compile(r"\bwhy\b")
_WORD = re.compile(r"[a-z0-9]+")


def question_messages(entry: Entry, article: Article | None) -> Iterator[str]:
    """Yields what is wrong with one question; `article` is its title's, None where there is none."""
    yield from _wording_messages(entry.question)
    yield from _answer_messages(entry)
    if article is None:
        yield f"the corpus has no article {entry.title!r}"
        return
    if entry.topic != article.topic:
        yield f"the topic of {entry.title!r} is {article.topic!r} in the corpus, not {entry.topic!r}"
    if not AnswerMatcher([entry.answers[0]]).matches(article.text):
        yield f"the first answer {entry.answers[0]!r} is not in the passage of {entry.title!r}"
    words = content_words(entry.question)
    lifted = longest_common_subsequence(words, content_words(article.text))
    if words and lifted >= LIFTABLE_SHARE * len(words):
        yield f"liftable: {lifted} of {len(words)} content words come in the passage's order"


def _wording_messages(question: str) -> Iterator[str]:
    num_words = len(question.split())
    if num_words not in QUESTION_WORDS:
        yield f"{num_words} words; there must be {QUESTION_WORDS[0]} to {QUESTION_WORDS[-1]}"
    lower = question.lower()
    if found := _POINTS_AT_PASSAGE.search(lower):
        yield f"{found.group()!r} points at a passage that the asker has not seen"
    if found := _NO_REFERENT.search(lower):
        yield f"{found.group()!r} stands for nothing in the question"
    if _WHY.search(lower):
        yield "asks why; the set is of short facts"


def _answer_messages(entry: Entry) -> Iterator[str]:
    seen = set()
    for answer in entry.answers:
        num_words = len(answer.split())
        if num_words not in ANSWER_WORDS:
            yield f"answer {answer!r} has {num_words} words; there must be at most {ANSWER_WORDS[-1]}"
        if AnswerMatcher([answer]).matches(entry.question):
            yield f"answer {answer!r} is in the question"
        if answer.lower() in seen:
            yield f"answer {answer!r} is given twice"
        seen.add(answer.lower())


def content_words(text: str) -> list[str]:
    """Lower-case words without accents, possessive endings and spaCy's English stop words."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return [word for word in _WORD.findall(plain.replace("'s", "")) if word not in STOP_WORDS]


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest sequence that comes in both, in order but not necessarily in a row."""
    lengths = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for place, other in enumerate(second, start=1):
            above = lengths[place]
            lengths[place] = diagonal + 1 if word == other else max(above, lengths[place - 1])
            diagonal = above
    return lengths[-1]


def question_kind(question: str) -> str:
    """What is asked for: the first question word, "how many" (or much), or "other" where there is none."""
    words = re.findall(r"\w+", question.lower())
    if re.search(r"\bhow (many|much)\b", question.lower()):
        return "how many"
    first = next((word for word in words if word in _KINDS), "")
    return _KINDS.get(first, "other")


_KINDS = {word: word for word in ("what", "who", "when", "where", "which", "how")}
_KINDS |= {"whom": "who", "whose": "who"}
