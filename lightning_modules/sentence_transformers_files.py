"""The files by which a folder is a model of sentence-transformers: how its embeddings are made.

They are written in the form that all versions of sentence-transformers from 2 on read. The package itself is
not needed.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_modules.loading import ModelError
from lightning_modules.pooling import Pooling

MODULES = "modules.json"
ROUTER = "router_config.json"
_TRANSFORMER = "sentence_bert_config.json"
_MODEL = "config_sentence_transformers.json"
_POOLING_FOLDER = "1_Pooling"
_TYPES = "sentence_transformers.models"
_POOLING_FLAGS = {
    Pooling.CLS: "pooling_mode_cls_token",
    Pooling.MEAN: "pooling_mode_mean_tokens",
    Pooling.LAST_TOKEN: "pooling_mode_lasttoken",
}
_POOLING_NAMES = {"cls": Pooling.CLS, "mean": Pooling.MEAN, "lasttoken": Pooling.LAST_TOKEN}
_PASSAGE_PROMPTS = ("document", "passage", "corpus")
"""What `encode_document` looks for, in this order."""


@dataclass(frozen=True)
class EmbeddingSettings:
    """How embeddings are made of an encoder's hidden states.

    Attributes:
        pooling: of the hidden states.
        normalize: whether embeddings have length 1.
        query_prompt, passage_prompt: what each query, or passage, begins with ("query: " for E5).
    """

    pooling: Pooling = Pooling.MEAN
    normalize: bool = False
    query_prompt: str = ""
    passage_prompt: str = ""


def read_embedding_settings(folder: Path) -> EmbeddingSettings | None:
    """What a folder says about its embeddings; None = it is no folder of sentence-transformers.

    Raises:
        ModelError: a file is broken or missing, or embeddings are made in a way that is not known here: other
            poolings, more layers after the pooling, lower-casing beside the tokenizer's.
    """
    if not (folder / MODULES).is_file():
        return None
    kinds = {}
    for module in _read(folder / MODULES, list):
        if not isinstance(module, dict) or "type" not in module:
            raise ModelError(f"retriever {folder}: {folder / MODULES} names a module without its type")
        kinds[str(module["type"]).rpartition(".")[2]] = folder / str(module.get("path", ""))
    unknown = sorted(kinds.keys() - {"Transformer", "Router", "Pooling", "Normalize"})
    if unknown:
        raise ModelError(
            f"retriever {folder}: {MODULES} names the module {unknown[0]}, which cannot be trained here; use "
            "a model of an encoder, a pooling and a normalisation alone"
        )
    model = _read(folder / _MODEL, dict) if (folder / _MODEL).is_file() else {}
    if (folder / _TRANSFORMER).is_file() and _read(folder / _TRANSFORMER, dict).get("do_lower_case"):
        raise ModelError(
            f"retriever {folder}: {_TRANSFORMER} asks for lower case beside the tokenizer; where the "
            "tokenizer makes lower case itself, set do_lower_case to false there"
        )
    query_prompt, passage_prompt = _prompts(model, folder)
    return EmbeddingSettings(
        _pooling(kinds.get("Pooling"), folder), "Normalize" in kinds, query_prompt, passage_prompt
    )


def write_sentence_transformers_files(
    folder: Path, settings: EmbeddingSettings, dim: int, max_tokens: int
) -> None:
    """Makes a folder that holds an encoder and its tokenizer a model of sentence-transformers.

    Args:
        folder: of the encoder.
        settings: how its embeddings are made.
        dim: of the hidden states.
        max_tokens: of a text; longer ones are cut.
    """
    _write_model(folder, settings, dim, "Transformer")
    write_max_tokens(folder, max_tokens)


def write_router_files(
    folder: Path, settings: EmbeddingSettings, dim: int, max_tokens: dict[str, tuple[str, int]]
) -> None:
    """Makes a folder that holds an encoder for each kind of text a model of sentence-transformers.

    Args:
        folder: of the folders of the encoders.
        settings, dim: as in `write_sentence_transformers_files`.
        max_tokens: by "query" and "document" the name of the encoder's folder, and the tokens of a text.
    """
    _write_model(folder, settings, dim, "Router")
    encoders = {kind: name for kind, (name, _) in max_tokens.items()}
    _write(
        folder / ROUTER,
        {
            "types": dict.fromkeys(encoders.values(), f"{_TYPES}.Transformer"),
            "structure": {kind: [name] for kind, name in encoders.items()},
            "parameters": {"default_route": "document", "allow_empty_key": True},
        },
    )
    for name, tokens in max_tokens.values():
        write_max_tokens(folder / name, tokens)


def write_max_tokens(folder: Path, max_tokens: int) -> None:
    """Says beside an encoder how long a text may be."""
    _write(folder / _TRANSFORMER, {"max_seq_length": max_tokens, "do_lower_case": False})


def _write_model(folder: Path, settings: EmbeddingSettings, dim: int, encoder: str) -> None:
    modules = [(encoder, ""), ("Pooling", _POOLING_FOLDER)]
    if settings.normalize:
        modules.append(("Normalize", "2_Normalize"))
    _write(
        folder / MODULES,
        [
            {"idx": i, "name": str(i), "path": path, "type": f"{_TYPES}.{kind}"}
            for i, (kind, path) in enumerate(modules)
        ],
    )
    flags = {flag: settings.pooling is pooling for pooling, flag in _POOLING_FLAGS.items()}
    (folder / _POOLING_FOLDER).mkdir(parents=True, exist_ok=True)
    _write(folder / _POOLING_FOLDER / "config.json", {"word_embedding_dimension": dim, **flags})
    _write(
        folder / _MODEL,
        {
            "prompts": {"query": settings.query_prompt, "document": settings.passage_prompt},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine" if settings.normalize else "dot",
        },
    )


def _pooling(place: Path | None, folder: Path) -> Pooling:
    if place is None:
        raise ModelError(f"retriever {folder}: {MODULES} names no pooling, so its texts have no embeddings")
    config = _read(place / "config.json", dict)
    if not config.get("include_prompt", True):
        raise ModelError(
            f"retriever {folder}: its pooling leaves the prompt out, which cannot be done here; use a model "
            "whose pooling includes it"
        )
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [key for key, is_on in config.items() if key.startswith("pooling_mode_") and is_on is True]
        known = {flag: pooling for pooling, flag in _POOLING_FLAGS.items()}
        modes = modes or [_POOLING_FLAGS[Pooling.MEAN]]
    else:
        modes, known = [modes] if isinstance(modes, str) else modes, _POOLING_NAMES
    if len(modes) != 1 or modes[0] not in known:
        raise ModelError(
            f"retriever {folder}: its pooling is {', '.join(map(str, modes))}; known are mean, cls and "
            "lasttoken alone"
        )
    return known[modes[0]]


def _prompts(model: dict[str, Any], folder: Path) -> tuple[str, str]:
    """What queries and passages begin with, as `encode_query` and `encode_document` find it."""
    prompts = model.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise ModelError(f"retriever {folder}: the prompts of {folder / _MODEL} are no texts")
    passage = next((prompts[name] for name in _PASSAGE_PROMPTS if prompts.get(name)), "")
    return prompts.get("query") or "", passage


def _read(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"retriever {path.parent}: {path} cannot be read ({error}); it says how embeddings are made: "
            "download the model whole"
        ) from error
    if not isinstance(content, kind):
        raise ModelError(f"retriever {path.parent}: {path} holds no JSON {kind.__name__}")
    return content


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
