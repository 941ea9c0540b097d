import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.batches import Question
from datamodules.errors import DataError
from datamodules.questions import hold_out, read_questions, split_questions
from tests.saved_dataset import SQUAD, save_dataset

PARIS = {"question": "capital of france?", "answer": ["Paris", "Lutetia"]}


@pytest.fixture
def write(tmp_path):
    """Writes text to a file of some name and gives its path."""

    def write_text(name, text):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write_text


def triviaqa(*records):
    return json.dumps({"Data": list(records), "Version": 1.0}, indent=2)


WHEN = {
    "Question": "When?",
    "QuestionId": "tc_1",
    "Answer": {"Value": "1999", "Aliases": ["1999", "MCMXCIX", ""], "NormalizedAliases": ["1999"]},
}


# ------------------------------------------------------------------------------------------------ formats
@pytest.mark.parametrize("name", ["nq.jsonl", "nq.jsonl.gz", "nq.json", "nq"])
def test_jsonl(write, name):
    full = {"id": 7, "question": " who? ", "answers": "Ann ", "title": "Ann", "topic": "People"}
    full["target"] = "Ann L."
    path = write(name, json.dumps({**PARIS, "id": "p"}) + "\n" + json.dumps(full) + "\n")
    assert read_questions(path) == [
        Question("p", "capital of france?", ("Paris", "Lutetia")),
        Question("7", "who?", ("Ann",), title="Ann", topic="People", canonical_answer="Ann L."),
    ]


def test_jsonl_answer_comes_before_answers_and_repeats_go(write):
    path = write("q.jsonl", '{"question": "q", "answer": "b", "answers": ["a", "b ", "a"]}')
    assert read_questions(path)[0].answers == ("b", "a")


@pytest.mark.parametrize("name", ["nq-train.qa.csv", "trivia.qa.csv.gz", "nq.tsv", "nq.txt"])
def test_dpr_as_its_writer_writes_it(tmp_path, name):
    rows = [
        ("who sang it?", ["Ann's", 'the "A" team', "a\\b"]),
        ('what is "it"', ["x"]),
        ("two\nlines", ["x"]),
        ("last", ["", "y"]),
    ]
    opener = gzip.open if name.endswith(".gz") else open
    with opener(tmp_path / name, "wt", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t").writerows(rows)
    assert [(q.text, list(q.answers)) for q in read_questions(tmp_path / name)] == [
        *rows[:2],
        ("two lines", ["x"]),
        ("last", ["y"]),
    ]


def test_dpr_ids_are_the_lines_where_the_rows_begin(write):
    path = write("q.tsv", '"two\nlines"\t[\'x\']\n\nq\t["y"]\n')
    assert [q.id for q in read_questions(path)] == ["1", "4"]


@pytest.mark.parametrize("name", ["web-dev.json", "web-dev.json.gz"])
def test_triviaqa_value_first_then_aliases(write, name):
    shouted = {"Question": "Who?", "Answer": {"Value": "ANN LEE", "Aliases": ["Ann"]}}
    assert read_questions(write(name, triviaqa(WHEN, shouted))) == [
        Question("tc_1", "When?", ("1999", "MCMXCIX"), canonical_answer="1999"),
        Question("1", "Who?", ("ANN LEE", "Ann"), canonical_answer="Ann Lee"),
    ]


def test_triviaqa_on_one_line(write):
    assert len(read_questions(write("web-dev.json", json.dumps({"Data": [WHEN]})))) == 1


def test_byte_order_mark_blank_lines_and_crlf_do_not_matter(write):
    path = write("q.jsonl", "\ufeff\r\n" + json.dumps(PARIS) + "\r\n\r\n")
    assert [q.id for q in read_questions(path)] == ["2"]
    path = write("q.csv", "\ufeffq\t['x']\r\n\r\nr\t['y']\r\n")
    assert [(q.text, q.answers) for q in read_questions(path)] == [("q", ("x",)), ("r", ("y",))]


def test_format_given_beats_the_suffix(write):
    assert len(read_questions(write("q.csv", json.dumps(PARIS)), "jsonl")) == 1


def test_limit_reads_no_further(write):
    path = write("q.jsonl", json.dumps(PARIS) + "\nbroken\n")
    assert len(read_questions(path, limit=1)) == 1
    with pytest.raises(DataError, match="limit of questions is 0"):
        read_questions(path, limit=0)


# ------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("q.jsonl", '{"question": "q"', "broken JSON"),
        ("q.jsonl", '{"answer": "x"}', "no question"),
        ("q.jsonl", '{"question": " ", "answer": "x"}', "no question"),
        ("q.jsonl", '{"question": 5, "answer": "x"}', "no question"),
        ("q.jsonl", '{"question": "q"}', "no answer"),
        ("q.jsonl", '{"question": "q", "answers": []}', "list of answers is empty"),
        ("q.jsonl", '{"question": "q", "answers": ["x", " "]}', "blank answer"),
        ("q.jsonl", '{"question": "q", "answer": "\\u200b"}', "blank answer"),
        ("q.jsonl", '{"question": "q", "answers": [1999]}', "answers must be a string or a list of strings"),
        ("q.jsonl", '{"question": "q", "answer": {"said": "x"}}', "answers must be a string"),
        ("q.jsonl", '{"question": "q", "answer": "x", "id": true}', '"id" is True'),
        ("q.jsonl", '{"question": "q", "answer": "x", "id": 1}', "has an id, and the first one has none"),
        ("q.csv", "q", "1 tab-separated columns"),
        ("q.csv", "q\t['x']\tmore", "3 tab-separated columns"),
        ("q.csv", "q\tx", "'x' is no list of answers"),
        ("q.csv", "q\t['x'", "is no list of answers"),
        ("q.csv", "q\t[1999]", "answers must be"),
        ("q.csv", "q\t__import__('os')", "is no list of answers"),
        ("q.csv", " \t['x']", "no question"),
        ("q.csv", "q\t[]", "list of answers is empty"),
        ("q.csv", "q\t['', ' ']", "list of answers is empty"),
        ("q.csv", "\"never closed\t['x']", "quotation mark"),
        ("q.csv", "\"swallows\t['x']\nthe next\"\t['y']", "quotation mark"),
        ("q.csv", '"' + "never closed " * 20_000, "quotation mark"),
    ],
)
def test_broken_line_is_named(write, name, line, message):
    good = json.dumps(PARIS) if name == "q.jsonl" else "q\t['x']"
    path = write(name, f"{good}\n\n{line}\n")
    with pytest.raises(DataError, match=rf"(?s)q\.\w+, line 3: .*{message}"):
        read_questions(path)


def test_numbers_never_stand_in_for_some_of_the_ids(write):
    first, second = ({**PARIS, "id": "7"}, PARIS)
    path = write("q.jsonl", f"{json.dumps(first)}\n{json.dumps(second)}\n")
    with pytest.raises(DataError, match=r"line 2: the question has no id, and the first one has one"):
        read_questions(path)
    path = write("q.jsonl", f"{json.dumps(first)}\n{json.dumps(first)}\n")
    with pytest.raises(DataError, match=r"line 2: id '7' is taken by .*line 1; give each its own"):
        read_questions(path)
    path = write("q.jsonl", f"{json.dumps(PARIS)}\n{json.dumps(PARIS)}\n")
    assert [question.id for question in read_questions(path)] == ["1", "2"]


def test_the_training_files_of_dpr_name_the_gold_passages(write):
    context = {"title": "Ann", "text": "Ann sang.", "passage_id": "5", "score": 1000}
    asked = {"dataset": "nq", "question": "who sang?", "answers": ["Ann"], "negative_ctxs": [{"title": "No"}]}
    records = [{**asked, "positive_ctxs": [context, {**context, "title": "Other"}]}, {**asked, "id": 2}]
    records[1]["positive_ctxs"] = []
    text = json.dumps([records[0]], indent=4)
    assert read_questions(write("biencoder-nq-dev.json", text)) == [
        Question("1", "who sang?", ("Ann",), title="Ann")
    ]
    (found,) = read_questions(write("empty.json", json.dumps(records[1:])))
    assert found.title == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (triviaqa(WHEN, {"Question": "q", "QuestionId": "tc_2"}), r"Data\[1\]: no answer .*test set"),
        (triviaqa({**WHEN, "Question": ""}), r"Data\[0\]: no question"),
        (triviaqa({**WHEN, "Answer": {"Value": "", "Aliases": []}}), r"Data\[0\]: .*answers is empty"),
        (triviaqa(WHEN, WHEN), r"Data\[1\]: id 'tc_1' is taken by .*Data\[0\]"),
        (triviaqa(), "no question in the whole file"),
        (triviaqa(WHEN)[:-5], "broken JSON"),
        ('{\n"rows": []}', 'no list of questions under "Data"'),
        (json.dumps([PARIS, 5]), "not one JSON list of objects"),
    ],
)
def test_broken_triviaqa_names_the_item(write, text, message):
    with pytest.raises(DataError, match=message):
        read_questions(write("web-dev.json", text))


def test_missing_file_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"question file .*nq-train\.qa\.csv does not exist"):
        read_questions(tmp_path / "nq-train.qa.csv")


@pytest.mark.parametrize("name", ["q.jsonl", "q.csv"])
def test_file_without_questions_is_refused(write, name):
    with pytest.raises(DataError, match="no question in the whole file"):
        read_questions(write(name, "\n\n"))


def test_unknown_formats_are_refused(write):
    with pytest.raises(DataError, match="choose one of: jsonl, json, dpr, triviaqa, squad"):
        read_questions(write("q.txt", "what is this\n"))
    with pytest.raises(DataError, match="choose one of: auto, jsonl, json, dpr"):
        read_questions(write("q.jsonl", json.dumps(PARIS)), "nq")


# ------------------------------------------------------------------------------------------------- splits
QUESTIONS = [Question(str(i), "q", ("a",)) for i in range(50)]


def test_splits_are_disjoint_ordered_and_of_the_sizes_asked_for():
    splits = split_questions(QUESTIONS, (30, 15), seed=0)
    assert [len(split) for split in splits] == [30, 15]
    assert len({q.id for split in splits for q in split}) == 45
    assert all(split == sorted(split, key=lambda q: int(q.id)) for split in splits)


def test_splits_depend_on_the_seed_alone():
    assert split_questions(QUESTIONS, (30, 15), seed=1) == split_questions(QUESTIONS, (30, 15), seed=1)
    assert split_questions(QUESTIONS, (30, 15), seed=1) != split_questions(QUESTIONS, (30, 15), seed=2)
    # Drawn once and written down: a change would silently change everybody's splits.
    assert [q.id for q in split_questions(QUESTIONS, (5,), seed=0)[0]] == ["1", "14", "28", "36", "43"]


@pytest.mark.parametrize(
    ("sizes", "message"), [((40, 11), "need 51 questions, there are 50"), ((0,), "1 or more")]
)
def test_impossible_splits_are_refused(sizes, message):
    with pytest.raises(DataError, match=message):
        split_questions(QUESTIONS, sizes, seed=0)


# ------------------------------------------------------------------------------------------------ parquet
def write_parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def triviaqa_answer(value, aliases):
    return {
        "aliases": aliases,
        "normalized_aliases": [alias.lower() for alias in aliases],
        "matched_wiki_entity_name": "",
        "normalized_matched_wiki_entity_name": "",
        "normalized_value": value.lower(),
        "type": "WikipediaEntity",
        "value": value,
    }


def test_parquet_of_nq_open(tmp_path):
    path = write_parquet(
        tmp_path / "nq.parquet", question=["who?", " when "], answer=[["Ann", "An"], ["1999"]]
    )
    assert read_questions(path) == [Question("1", "who?", ("Ann", "An")), Question("2", "when", ("1999",))]
    assert len(read_questions(path, limit=1)) == 1


def test_parquet_of_triviaqa(tmp_path):
    path = write_parquet(
        tmp_path / "triviaqa.parquet",
        question=["who?"],
        question_id=["tc_1"],
        question_source=["http://www.triviacountry.com/"],
        answer=[triviaqa_answer("Ann Lee", ["Mother Ann", "Ann Lee", " "])],
    )
    assert read_questions(path) == [
        Question("tc_1", "who?", ("Ann Lee", "Mother Ann"), canonical_answer="Ann Lee")
    ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"question": ["who?"]}, r'row 1: no answer: it has the keys "question"; expected "answer" or'),
        ({"question": ["who?"], "answer": [["  "]]}, "row 1: a blank answer"),
        ({"question": [" "], "answer": [["Ann"]]}, "row 1: no question"),
        ({"question": ["who?"], "answer": [None]}, "row 1: no answer"),
        (
            {"question": pa.array([], pa.string()), "answer": pa.array([], pa.list_(pa.string()))},
            "no question in",
        ),
    ],
)
def test_parquet_that_holds_something_else(tmp_path, columns, message):
    with pytest.raises(DataError, match=message):
        read_questions(write_parquet(tmp_path / "q.parquet", **columns))


def test_parquet_that_is_cut_off(tmp_path):
    path = write_parquet(tmp_path / "q.parquet", question=["who?"], answer=[["Ann"]])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"q\.parquet: cannot be read as parquet .* is the file whole"):
        read_questions(path)


def test_questions_without_answers_are_for_training_alone(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "who"}\n{"question": "what", "answer": "it"}\n')
    questions = read_questions(path, needs_answers=False)
    assert [question.answers for question in questions] == [(), ("it",)]
    with pytest.raises(DataError, match="line 1: no answer"):
        read_questions(path)
    path.write_text('{"question": "who", "answer": ""}\n')
    with pytest.raises(DataError, match="a blank answer"):
        read_questions(path, needs_answers=False)


# ---- formats that people have ----


def test_queries_and_other_names_of_answers(write):
    records = [
        {"_id": "PLAIN-2", "query": "who?", "answers": ["Ann"]},
        {"qid": 7, "text": "when?", "golden_answers": ["1999", "MCMXCIX"]},
    ]
    expected = [Question("PLAIN-2", "who?", ("Ann",)), Question("7", "when?", ("1999", "MCMXCIX"))]
    assert read_questions(write("q.jsonl", "\n".join(map(json.dumps, records)))) == expected
    assert read_questions(write("q.json", json.dumps(records, indent=2))) == expected


def test_a_missing_key_names_those_found_and_those_expected(write):
    with pytest.raises(DataError, match=r'line 1: no question: it has the keys "ask", "answer"; expected "q'):
        read_questions(write("q.jsonl", '{"ask": "who?", "answer": "Ann"}'))
    with pytest.raises(DataError, match=r'line 1: no answer: it has the keys "question", "reply"; expected'):
        read_questions(write("q.jsonl", '{"question": "who?", "reply": "Ann"}'))


@pytest.mark.parametrize("indent", [None, 1])
def test_squad(write, indent):
    path = write("train-v2.0.json", json.dumps(SQUAD, indent=indent))
    assert read_questions(path) == [
        Question("56be", "What do statins lower?", ("cholesterol",), title="Statins"),
        Question("56bf", "When did she rise to fame?", ("late 1990s", "the late 1990s"), title="Beyoncé"),
    ]
    path = write("train-v2.0.json", '{"data": [{"title": "T"}]}')
    with pytest.raises(DataError, match=r'data\[0\]: no list of objects under "paragraphs", as SQuAD has it'):
        read_questions(path)


def test_squad_as_a_saved_dataset(tmp_path):
    answers = [{"text": ["cholesterol"], "answer_start": [14]}]
    table = pa.table({"id": ["56be"], "context": ["c"], "question": ["What?"], "answers": answers})
    assert read_questions(save_dataset(tmp_path / "train", table)) == [
        Question("56be", "What?", ("cholesterol",))
    ]


def write_beir(folder, qrels="query-id\tcorpus-id\tscore\nq2\td1\t1\nq1\td3\t2\nq2\td2\t1\nq2\td9\t0\n"):
    (folder / "qrels").mkdir(exist_ok=True)
    queries = [{"_id": "q1", "text": "who?"}, {"_id": "q2", "text": "when?", "answers": ["1999"]}]
    queries.append({"_id": "q3", "text": "of another split"})
    (folder / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
    (folder / "qrels" / "train.tsv").write_text(qrels)
    return folder / "qrels" / "train.tsv"


def test_beir_judgements_bring_their_queries(tmp_path):
    assert read_questions(write_beir(tmp_path)) == [
        Question("q2", "when?", ("1999",), positives=frozenset({"d1", "d2"})),
        Question("q1", "who?", (), positives=frozenset({"d3"})),
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("q1\td1\n", r"train\.tsv, line 2: \['q1', 'd1'\] is no judgement"),
        ("q1\td1\thigh\n", r"train\.tsv, line 2: .* is no judgement"),
        ("q1\td1\t0\n", "no passage is judged relevant"),
        ("q7\td1\t1\n", r"queries\.jsonl holds no query 'q7', which is judged"),
    ],
)
def test_broken_beir_judgements(tmp_path, lines, message):
    path = write_beir(tmp_path, f"query-id\tcorpus-id\tscore\n{lines}")
    with pytest.raises(DataError, match=message):
        read_questions(path)


def test_beir_judgements_without_queries(tmp_path):
    path = write_beir(tmp_path)
    (tmp_path / "queries.jsonl").unlink()
    with pytest.raises(DataError, match=r"no queries\.jsonl beside it or in the folder above"):
        read_questions(path)


# ---- questions that are held out ----


def test_a_fifth_is_held_out_twice_and_no_question_is_on_both_sides():
    questions = [Question(str(i), f"Question {i % 30}?", ("a",)) for i in range(60)]
    splits = hold_out(questions, ("validation", "test"), seed=0)
    words = {name: {question.words for question in split} for name, split in splits.items()}
    assert {name: len(found) for name, found in words.items()} == {"train": 18, "validation": 6, "test": 6}
    assert len(set.union(*words.values())) == 30
    assert sum(map(len, splits.values())) == 60
    assert splits == hold_out(questions, ("validation", "test"), seed=0)
    assert splits != hold_out(questions, ("validation", "test"), seed=1)
    assert {name: len(split) for name, split in hold_out(questions, ("test",), seed=0).items()} == {
        "train": 48,
        "test": 12,
    }
    with pytest.raises(DataError, match="at least 5 different questions, there are 4"):
        hold_out(questions[:4], ("test",), seed=0)
