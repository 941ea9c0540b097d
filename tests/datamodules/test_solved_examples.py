"""Which training questions are shown solved."""

from itertools import permutations

import pytest

from datamodules.batches import Passage, Question
from datamodules.errors import DataError
from datamodules.passages import build_knowledge_base
from datamodules.solved_examples import choose_examples
from tests.tiny_models import toy_knowledge_base, toy_questions

PASSAGES = [
    Passage("0", "Cuba", "Its capital is Havana, and has been for long, as everybody knows."),
    Passage("1", "Cuba", "The capital is Havana."),
    Passage("2", "Cuba", "An island."),
    Passage("3", "Peru", "The capital of this country in the west is Lima."),
    Passage("4", "Oslo", "It is Oslo."),
    Passage("5", "Ghana", "It is a republic of the west of Africa."),
    Passage("6", "Spain", "It lies in the sun."),
    Passage("7", "Italy", "It is Rome."),
]
CUBA = Question("cuba", "capital of Cuba", ("Havana", "La Habana"), title="Cuba")
CUBA_AGAIN = Question("again", "what is the capital of Cuba", ("Havana",), title="Cuba")
PERU = Question("peru", "capital of Peru", ("Lima",), title="Peru")
OSLO = Question("oslo", "capital", ("Oslo",), title="Oslo")
GHANA = Question("ghana", "what", ("republic of the west of Africa",), title="Ghana")
ITALY = Question("italy", "it", ("Rome",), title="Italy")
UNFIT = [
    Question("untitled", "a", ("Havana",)),
    Question("elsewhere", "b", ("Havana",), title="Atlantis"),
    Question("unanswered", "c", ("Madrid",), title="Spain"),
]


@pytest.fixture
def knowledge_base(tmp_path):
    return build_knowledge_base(PASSAGES, tmp_path / "k.arrow")


def test_short_ones_come_first_with_the_shortest_passage_that_holds_the_answer(knowledge_base):
    train = [*UNFIT, GHANA, OSLO, PERU, CUBA_AGAIN, CUBA]
    examples = choose_examples(train, knowledge_base, 4)
    # OSLO's title tells its answer, GHANA's answer is long, CUBA_AGAIN would show a passage twice
    assert [example.question for example in examples] == [CUBA, PERU, OSLO, GHANA]
    assert [example.passage.id for example in examples] == ["1", "3", "4", "5"]
    assert [example.answer for example in examples][:2] == ["Havana", "Lima"]
    assert choose_examples(train, knowledge_base, 2) == examples[:2]


def test_the_choice_does_not_depend_on_the_order_of_the_questions(knowledge_base):
    orders = list(permutations([GHANA, OSLO, PERU, CUBA]))
    chosen = {tuple(e.question.id for e in choose_examples(order, knowledge_base, 3)) for order in orders}
    assert chosen == {("cuba", "peru", "oslo")}


def test_what_is_asked_elsewhere_is_no_example_and_its_titles_come_last(knowledge_base):
    train = [PERU, CUBA, ITALY]
    asked = [Question("v", "Capital  of cuba", ("x",)), Question("w", "another", ("y",), title="Italy")]
    assert [e.question for e in choose_examples(train, knowledge_base, 2, asked)] == [PERU, ITALY]
    assert [e.question for e in choose_examples(train, knowledge_base, 1)] == [ITALY]


def test_too_few_are_refused(knowledge_base):
    with pytest.raises(DataError, match=r"num_examples=3, but 2 training .* \(title\).*at most that many"):
        choose_examples([PERU, CUBA, CUBA_AGAIN, *UNFIT], knowledge_base, 3)
    with pytest.raises(DataError, match="num_examples=1, but 0"):
        choose_examples([], knowledge_base, 1)
    assert choose_examples([], knowledge_base, 0) == []


def test_passages_are_found_by_title(tmp_path):
    knowledge_base = toy_knowledge_base(tmp_path)
    titles = [question.title for question in toy_questions()]
    found = knowledge_base.titled([*titles, "Atlantis"])
    assert {title: [p.id for p in passages] for title, passages in found.items()} == {
        title: [f"c{i}"] for i, title in enumerate(titles)
    }
