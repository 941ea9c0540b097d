"""A good set passes; every test breaks it in one way and looks for the one fault."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import datamodules.vital
from datamodules import embedded
from datamodules.errors import DataError
from datamodules.vital import check
from datamodules.vital.entries import Article, Entry, format_fault, read_entries
from datamodules.vital.question_rules import content_words, longest_common_subsequence, question_kind
from datamodules.vital.set_rules import Limits

SHIPPED = Path(datamodules.vital.__file__).parent
LIMITS = Limits(
    sizes={"train": 3, "validation": 1, "test": 2},
    tiny_size=2,
    kind_share=0.35,
    title_share=0.2,
    topic_tolerance=0.1,
    gold_passages=6,
)
ARTICLES = {
    "Rome": Article("Rome is the capital of Italy. The Tiber flows through Rome.", "Geography"),
    "Lima": Article("Lima, the capital of Peru, was founded by Francisco Pizarro in 1535.", "Geography"),
    "Oslo": Article("Oslo burned in 1624 and was rebuilt under Christian IV of Denmark.", "Geography"),
    "Gold": Article(
        "Gold is a chemical element with atomic number 79. It dissolves in aqua regia.", "Science"
    ),
    "Iron": Article("Iron is a chemical element; its symbol Fe comes from Latin ferrum.", "Science"),
    "Neon": Article("Neon was discovered in 1898 by William Ramsay in London.", "Science"),
}
RECORDS = [
    ("which river can you see from the vatican", ["Tiber", "the Tiber"], "Rome"),
    ("who started the peruvian seat of government", ["Francisco Pizarro", "Pizarro"], "Lima"),
    ("when was the norwegian port destroyed by fire", ["1624"], "Oslo"),
    ("how many protons sit inside an atom of the wedding ring metal", ["79"], "Gold"),
    ("what did the romans call the stuff that rusts", ["ferrum"], "Iron"),
    ("where did a british chemist first find the gas of red lamps", ["London"], "Neon"),
]
SPLIT_OF = ["train", "validation", "train", "test", "train", "test"]


def good_splits() -> dict[str, list[Entry]]:
    entries = [
        Entry("x.jsonl", line, question, tuple(answers), title, ARTICLES[title].topic)
        for line, (question, answers, title) in enumerate(RECORDS, start=1)
    ]
    entries = [replace(entry, file=f"{split}.jsonl") for entry, split in zip(entries, SPLIT_OF, strict=True)]
    return {name: [entry for entry in entries if entry.file == f"{name}.jsonl"] for name in LIMITS.sizes}


def messages(splits, tiny=None, limits=LIMITS):
    tiny = splits["train"][:2] if tiny is None else tiny
    return [str(fault) for fault in check.find_faults(splits, tiny, ARTICLES, limits)]


def messages_with(**changes):
    """Faults of the good set with its first question changed, in train.jsonl and in tiny.jsonl."""
    splits = good_splits()
    splits["train"][0] = replace(splits["train"][0], **changes)
    return messages(splits)


def test_good_set_has_no_fault():
    assert messages(good_splits()) == []


@pytest.mark.parametrize(
    ("question", "fault"),
    [
        ("river near the vatican", "4 words; there must be 5 to 20"),
        ("which river " + "very " * 18 + "long", "21 words; there must be 5 to 20"),
        ("which river does this country see most", "'this' points at a passage"),
        ("which river is in the passage on popes", "'the passage' points at a passage"),
        ("which river is named by the article on popes", "'the article' points at a passage"),
        ("his favourite river near the vatican was which", "'his' stands for nothing"),
        ("when did she swim past the vatican", "'when did she' stands for nothing"),
        ("why does a river pass the vatican", "asks why"),
        ("which popes drank from the Tiber in summer", "Tiber' is in the question"),
        ("what is the capital of italy where popes rule", "liftable: 2 of 4 content words"),
        ("which river in rome the capital of italy", "liftable: 3 of 4 content words"),
    ],
)
def test_wording(question, fault):
    found = messages_with(question=question)
    assert found
    assert all(message.startswith("train.jsonl, line 1: ") and fault in message for message in found)


def test_less_than_half_of_the_content_words_may_be_lifted():
    assert messages_with(question="which river pleased popes in the capital of italy") == []


def test_expletive_it_and_a_pronoun_with_a_referent_are_no_faults():
    assert messages_with(question="what is it called when popes cross water") == []
    assert messages_with(question="who lent his name to water near popes") == []


@pytest.mark.parametrize(
    ("answers", "fault"),
    [
        (("Danube",), "the first answer 'Danube' is not in the passage of 'Rome'"),
        (("iber",), "the first answer 'iber' is not in the passage of 'Rome'"),
        (("Tiber", "the tiber", "The Tiber"), "answer 'The Tiber' is given twice"),
        (("Tiber", "a river that flows through Rome"), "has 6 words; there must be at most 5"),
    ],
)
def test_answers(answers, fault):
    [message] = messages_with(answers=answers)
    assert fault in message


def test_title_and_topic_must_be_those_of_the_corpus():
    [message] = messages_with(title="Atlantis")
    assert "the corpus has no article 'Atlantis'" in message
    [message] = [message for message in messages_with(topic="Science") if "line 1" in message]
    assert "the topic of 'Rome' is 'Geography' in the corpus, not 'Science'" in message


def test_sizes_of_splits_and_tiny():
    splits = good_splits()
    del splits["train"][2]
    found = messages(splits, tiny=splits["train"][:1])
    assert "train.jsonl: 2 questions; there must be 3" in found
    assert "tiny.jsonl: 1 questions; there must be 2" in found


def test_tiny_must_hold_different_lines_of_train():
    splits = good_splits()
    stranger = replace(splits["test"][0], file="tiny.jsonl", line=1)
    known = replace(splits["train"][0], file="tiny.jsonl", line=2)
    assert messages(splits, [stranger, known]) == [
        "tiny.jsonl, line 1: not a line of train.jsonl, or given twice"
    ]
    assert messages(splits, [known, known]) == [
        "tiny.jsonl, line 2: not a line of train.jsonl, or given twice"
    ]


def test_splits_must_not_share_a_gold_passage():
    splits = good_splits()
    splits["validation"][0] = replace(
        splits["validation"][0],
        question="which country do italians govern from their biggest town",
        answers=("Italy",),
        title="Rome",
    )
    found = messages(splits)
    assert "validation.jsonl, line 2: the gold passage 'Rome' is in train too" in found
    assert "all splits: 5 different gold passages; there must be 6" in found


def test_near_duplicates_are_found_across_splits():
    splits = good_splits()
    twin = "what river could you see at the vatican"
    splits["test"][1] = replace(splits["test"][1], question=twin)
    [message] = messages(splits)
    assert "test.jsonl, line 6: near-duplicate of train.jsonl, line 1:" in message


def test_less_likeness_makes_near_duplicates_of_questions_that_share_an_answer():
    question = "which river pleased popes living near the vatican"
    splits = good_splits()
    splits["train"][2] = replace(splits["train"][2], question=question)
    assert messages(splits) == []
    splits["train"][2] = replace(splits["train"][2], question=question, answers=("ferrum", "the tiber"))
    [message] = messages(splits)
    assert "train.jsonl, line 5: near-duplicate of train.jsonl, line 1:" in message


def test_no_kind_above_its_share():
    assert [
        m for m in messages(good_splits(), limits=replace(LIMITS, kind_share=0.1)) if "questions are" in m
    ]
    splits = good_splits()
    for place in (1, 2):
        entry = splits["train"][place]
        splits["train"][place] = replace(entry, question=f"which {entry.question.partition(' ')[2]}")
    assert messages(splits) == ["all splits: 'which' questions are 50.0%; must be at most 35%"]


def test_titles_as_answers_are_limited():
    splits = good_splits()
    for place, answer in enumerate(("Rome", "Oslo")):
        entry = splits["train"][place]
        splits["train"][place] = replace(entry, answers=(*entry.answers, answer))
    assert messages(splits) == ["all splits: the title is the answer of 33.3%; must be at most 20%"]


def test_topics_in_proportion():
    splits = good_splits()
    splits["train"] = [entry for entry in splits["train"] if entry.topic == "Geography"]
    found = messages(splits, limits=replace(LIMITS, sizes={"train": 2, "validation": 1, "test": 2}))
    assert not [message for message in found if "topic" in message]
    splits["test"] = splits["test"][:1]
    expected = "all splits: topic 'Science' is 25.0%; must be 50.0% as in the corpus, give or take 10.0%"
    assert expected in messages(splits)
    splits["test"] = []
    assert [message for message in messages(splits) if "topic 'Science' is 0.0%" in message]


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("how many bones are in a hand", "how many"),
        ("roughly how much does it weigh", "how many"),
        ("How old was he when he died?", "how"),
        ("in what year did it happen", "what"),
        ("whose law is it when planets move", "who"),
        ("capital of the island state", "other"),
    ],
)
def test_question_kind(question, kind):
    assert question_kind(question) == kind


def test_content_words_and_longest_common_subsequence():
    assert content_words("The Café's 3 doors, which are RED") == ["cafe", "3", "doors", "red"]
    assert longest_common_subsequence(list("abcd"), list("bxda")) == 2
    assert longest_common_subsequence([], ["a"]) == 0


GOOD = {"question": "q", "answer": ["a"], "title": "t", "topic": "o"}


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (GOOD, ""),
        ([GOOD], "a JSON list instead of an object"),
        ({**GOOD, "id": "1"}, "the keys are question, answer, title, topic, id; they must be"),
        (
            {key: GOOD[key] for key in ("question", "answer", "title")},
            "the keys are question, answer, title;",
        ),
        ({**GOOD, "question": " q"}, '"question" must be text without blanks around it'),
        ({**GOOD, "topic": None}, '"topic" must be text'),
        ({**GOOD, "answer": "a"}, '"answer" must be a list of texts'),
        ({**GOOD, "answer": []}, '"answer" must be a list of texts'),
        ({**GOOD, "answer": ["a", " "]}, '"answer" must be a list of texts'),
    ],
)
def test_form_of_a_line(record, fault):
    assert format_fault(record).startswith(fault)
    assert bool(format_fault(record)) == bool(fault)


def test_malformed_lines_are_faults_with_their_line_and_the_others_are_read(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(f'{json.dumps(GOOD)}\n{{"question"\n\n{json.dumps({**GOOD, "title": "u"})}\n')
    entries, faults = read_entries(path)
    assert [(entry.line, entry.title) for entry in entries] == [(1, "t"), (4, "u")]
    assert [str(fault).partition(": not JSON")[0] for fault in faults] == [
        "train.jsonl, line 2",
        "train.jsonl, line 3",
    ]


def test_missing_file_is_one_message_and_status_2(tmp_path, capsys):
    assert check.main(["--folder", str(tmp_path)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert "train.jsonl does not exist" in output.err


def test_missing_corpus_is_one_message_and_status_2(monkeypatch, capsys):
    def not_installed():
        raise DataError("the corpus is not installed")

    monkeypatch.setattr(embedded, "corpus_file", not_installed)
    assert check.main([]) == 2
    assert capsys.readouterr().err == "the corpus is not installed\n"


@pytest.mark.embedded
def test_shipped_files_have_no_fault(capsys):
    assert check.main([]) == 0
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 100
    assert "no fault" in output


@pytest.mark.embedded
def test_fault_in_a_file_is_named_and_status_1(tmp_path, capsys):
    for path in SHIPPED.glob("*.jsonl"):
        shutil.copy(path, tmp_path)
    path = tmp_path / "validation.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:7], "broken", *lines[8:]]))
    assert check.main(["--folder", str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert "validation.jsonl, line 8: not JSON" in output
    assert "validation.jsonl: 299 questions; there must be 300" in output
    assert output.endswith(" faults\n")
