import pytest
import spacy

from datamodules.batches import Question
from datamodules.errors import DataError
from datamodules.nouns import NounTagger


def question(text):
    return Question(id="1", text=text, answers=("x",), title="T")


def words(tagged):
    return [tagged.text[start:end] for start, end in tagged.nouns]


@pytest.fixture
def lexicon_model(tmp_path):
    """A spaCy model that takes every word in capitals for a proper noun and `river` for a noun."""
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("attribute_ruler")
    ruler.add([[{"IS_UPPER": True}]], {"POS": "PROPN"})
    ruler.add([[{"LOWER": "river"}]], {"POS": "NOUN"})
    ruler.add([[{"LOWER": "flows"}]], {"POS": "VERB"})
    nlp.to_disk(tmp_path / "model")
    return str(tmp_path / "model")


def test_spans_cut_the_nouns_out_of_the_text(lexicon_model):
    tagged = NounTagger(lexicon_model).tag([question("  which river flows\tby YORK?"), question("why")])
    assert [words(q) for q in tagged] == [["river", "YORK"], []]
    assert tagged[0].nouns == ((8, 13), (23, 27))


def test_everything_else_about_the_question_stays(lexicon_model):
    (tagged,) = NounTagger(lexicon_model).tag([question("the river")])
    assert (tagged.id, tagged.text, tagged.answers, tagged.title) == ("1", "the river", ("x",), "T")
    assert NounTagger(lexicon_model).tag([]) == []


def test_model_without_a_tagger_is_refused(tmp_path):
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(DataError, match="tags no parts of speech"):
        NounTagger(str(tmp_path / "blank")).tag([question("the river")])


@pytest.mark.parametrize("model", ["xx_no_such_model", "no/such/folder"])
def test_missing_model_names_the_mend(model):
    with pytest.raises(DataError, match=rf"spaCy model '{model}' cannot be loaded .*spacy download"):
        NounTagger(model)


@pytest.mark.embedded
def test_embedded_model_finds_the_nouns_of_real_questions():
    texts = ["who wrote the origin of species", "What is the capital of France?", "how many did they run"]
    tagged = NounTagger().tag([question(text) for text in texts])
    assert [words(q) for q in tagged] == [["origin", "species"], ["capital", "France"], []]
