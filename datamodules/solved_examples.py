"""Which training questions become solved examples: what a reader is shown before it is asked."""

from collections.abc import Sequence

from datamodules.answer_matching import has_answer
from datamodules.batches import Passage, Question, SolvedExample
from datamodules.errors import DataError
from datamodules.passages import KnowledgeBase

_SHORT_ANSWER = 3
"""Words of an answer beyond which other questions are preferred: examples are to show short answers."""


def choose_examples(
    train: Sequence[Question],
    knowledge_base: KnowledgeBase,
    num_examples: int,
    asked: Sequence[Question] = (),
) -> list[SolvedExample]:
    """Training questions whose gold passage is known and holds the answer, those with the fewest characters.

    The gold passage is the shortest of the knowledge base that has the question's `title` and holds its
    preferred answer. Questions with short answers come first, among them those whose answer is no part of the
    title (a reader would learn to repeat titles), and among these those whose title no question has that will
    be asked. No two examples share a title. The choice is the same for the same arguments.

    Args:
        train: questions to choose from.
        knowledge_base: with their passages.
        num_examples: how many.
        asked: of other splits; a question asked there is no example.

    Raises:
        DataError: there are not so many.
    """
    if not num_examples:
        return []
    words_asked = {question.words for question in asked}
    titles_asked = {question.title for question in asked}
    passages = knowledge_base.titled({question.title for question in train if question.title})
    examples: list[SolvedExample] = []
    for question in train:
        passage = _gold_passage(question, passages.get(question.title, []))
        if passage is not None and question.words not in words_asked:
            examples.append(SolvedExample(question, passage, question.answers[0]))

    def cost(example: SolvedExample) -> tuple[bool, bool, bool, int]:
        title, answer = example.question.title, example.answer
        num_characters = len(example.question.text) + len(example.passage.text) + len(answer)
        is_long = len(answer.split()) > _SHORT_ANSWER
        return is_long, has_answer(title, [answer]), title in titles_asked, num_characters

    by_title: dict[str, SolvedExample] = {}
    for example in sorted(examples, key=cost):
        by_title.setdefault(example.question.title, example)
    if len(by_title) < num_examples:
        raise DataError(
            f"num_examples={num_examples}, but {len(by_title)} training questions can be solved examples: "
            "they must name the passage that answers them (title), a passage of that title in the knowledge "
            "base must hold the answer, and no other split may ask them; set num_examples to at most that "
            "many, or give train questions with titles"
        )
    return list(by_title.values())[:num_examples]


def _gold_passage(question: Question, titled: Sequence[Passage]) -> Passage | None:
    """The shortest that holds the preferred answer."""
    holding = [passage for passage in titled if has_answer(passage.text, question.answers[:1])]
    return min(holding, key=lambda passage: len(passage.text), default=None)
