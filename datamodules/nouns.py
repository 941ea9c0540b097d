"""Marks the nouns of questions, the target of Indicator 2."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from datamodules.batches import Question
from datamodules.embedded import noun_tagger_folder
from datamodules.errors import DataError

EMBEDDED = "embedded"

# What a spaCy pipeline may have beside its tagger, and tagging does not use.
_UNUSED = ("parser", "senter", "ner", "lemmatizer", "trainable_lemmatizer", "entity_linker", "textcat")
_NOUNS = ("NOUN", "PROPN")


class NounTagger:
    """Finds the nouns of questions with a spaCy model.

    Args:
        model: `embedded` (the default's English model), an installed spaCy package or the path of a model.

    Raises:
        DataError: the model is not installed or cannot be loaded.
    """

    def __init__(self, model: str = EMBEDDED) -> None:
        # spaCy takes seconds to import, and most runs never tag.
        import spacy

        name: str | Path = noun_tagger_folder() if model == EMBEDDED else model
        try:
            self._nlp = spacy.load(name, exclude=_UNUSED)
        except (OSError, ValueError, ImportError) as error:
            raise DataError(
                f"the spaCy model {model!r} cannot be loaded ({_first_line(error)}); "
                f"run `python -m spacy download {model}`, give the path of a model, or use {EMBEDDED!r}"
            ) from error
        self.model = model

    def tag(self, questions: Sequence[Question]) -> list[Question]:
        """The questions with `nouns` filled in: character spans of the tokens tagged NOUN or PROPN.

        Raises:
            DataError: the model assigns no parts of speech.
        """
        tagged, any_tags = [], False
        documents = self._nlp.pipe(question.text for question in questions)
        for question, document in zip(questions, documents, strict=True):
            any_tags |= document.has_annotation("POS")
            spans = tuple((token.idx, token.idx + len(token)) for token in document if token.pos_ in _NOUNS)
            tagged.append(replace(question, nouns=spans))
        if questions and not any_tags:
            raise DataError(f"the spaCy model {self.model!r} tags no parts of speech; use one with a tagger")
        return tagged


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
