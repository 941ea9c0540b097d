import doctest
import json
import random
import unicodedata

import pytest
import regex

from datamodules import answer_matching
from datamodules.answer_matching import (
    AnswerMatcher,
    HitMatcher,
    dpr_tokens,
    exact_match,
    f1_score,
    has_answer,
    normalize_answer,
)
from datamodules.batches import Passage, Question
from datamodules.errors import DataError


@pytest.fixture(scope="module")
def goldens(goldens_folder):
    return json.loads((goldens_folder / "answer_matching.json").read_text(encoding="utf-8"))


def tokens_reference(text):
    """The cut as DPR wrote it: two groups, case ignored, each token lower-cased by itself."""
    pattern = regex.compile(
        r"([\p{L}\p{N}\p{M}]+)|([^\p{Z}\p{C}])", regex.IGNORECASE + regex.UNICODE + regex.MULTILINE
    )
    return [match.group().lower() for match in pattern.finditer(unicodedata.normalize("NFD", text))]


def has_answer_reference(text, answers):
    """DPR's rule by sliding a window over the tokens."""
    tokens = tokens_reference(text)
    for answer in map(tokens_reference, answers):
        for i in range(len(tokens) - len(answer) + 1):
            if tokens[i : i + len(answer)] == answer:
                return True
    return False


def test_exact_match_and_f1_equal_atlas(goldens):
    for case in goldens["exact_match_f1"]:
        if case["answers"]:
            assert exact_match(case["prediction"], case["answers"]) == case["atlas_em"], case
            assert f1_score(case["prediction"], case["answers"]) == pytest.approx(case["atlas_f1"]), case


def test_has_answer_equals_dpr(goldens):
    for case in goldens["has_answer"]:
        assert has_answer(case["text"], case["answers"]) is case["has_answer"], case


def test_token_match_equals_a_sliding_window_on_random_texts():
    draw = random.Random(0)
    pieces = [
        "a",
        "b",
        "É",
        "e\u0301",
        "Σ",
        "σ",
        "ς",
        ".",
        "'",
        "-",
        " ",
        "\u00a0",
        "\u200b",
        "٣",
        "😀",
        "\x00",
    ]
    outcomes = []
    for _ in range(3000):
        text = "".join(draw.choices(pieces, k=draw.randint(0, 12)))
        answers = ["".join(draw.choices(pieces, k=draw.randint(0, 3))) for _ in range(draw.randint(0, 2))]
        outcomes.append(has_answer_reference(text, answers))
        assert has_answer(text, answers) is outcomes[-1], (text, answers)
        assert dpr_tokens(text) == tokens_reference(text), text
    assert 500 < sum(outcomes) < 2500


@pytest.mark.parametrize(
    ("text", "answers", "tokens", "substring"),
    [
        ("The capital is PARIS!", ["paris."], False, True),
        ("New-York City", ["NewYork"], False, True),
        ("Parisian", ["Paris"], False, True),
        ("Rome", ["Paris"], False, False),
        ("anything", ["the"], False, False),
        ("anything", [""], True, False),
        ("anything", [], False, False),
    ],
)
def test_the_two_rules_differ_as_documented(text, answers, tokens, substring):
    assert has_answer(text, answers, "tokens") is tokens
    assert has_answer(text, answers, "substring") is substring


def test_matcher_serves_many_texts():
    matcher = AnswerMatcher(["New York", "NYC"])
    assert [matcher.matches(t) for t in ("in new york.", "nyc", "York New", "")] == [True, True, False, False]


def test_normalize_answer():
    assert normalize_answer("  The  U.S.A, an\tarmy ") == "usa army"
    # No article: the letter carries an accent.
    assert normalize_answer("a\u0301 cat") == "a\u0301 cat"


@pytest.mark.parametrize("function", [exact_match, f1_score])
def test_no_answers_are_refused(function):
    with pytest.raises(DataError, match="no answers"):
        function("x", [])


@pytest.mark.parametrize("function", [exact_match, f1_score, has_answer])
def test_one_string_in_place_of_several_is_refused(function):
    with pytest.raises(DataError, match=r"write \['Paris'\]"):
        function("Paris", "Paris")


def test_unknown_rule_names_the_known_ones():
    with pytest.raises(DataError, match="choose one of: tokens, substring"):
        has_answer("x", ["x"], "regex")


def test_docstring_examples():
    assert doctest.testmod(answer_matching).failed == 0


def test_judged_passages_go_before_answers():
    passage, other = Passage("d1", "T", "nothing of it"), Passage("d2", "T", "in New York")
    judged = HitMatcher(Question("q", "where?", ("New York",), positives=frozenset({"d1"})))
    assert (judged.matches(passage), judged.matches(other)) == (True, False)
    answered = HitMatcher(Question("q", "where?", ("New York",)))
    assert (answered.matches(passage), answered.matches(other)) == (False, True)
