"""Models and tokenizers from the hub, from a folder, or from a GGUF file; safe formats only."""

import contextlib
import functools
import io
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import logging as transformers_logging

from datamodules.durable_files import cannot_write
from datamodules.errors import DataError
from datamodules.hub_models import fetch_model
from datamodules.quiet_logs import only_errors_of
from lightning_modules.gguf_cache import decoded

_LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    ImportError,
    RuntimeError,
    SafetensorError,
    UnpicklingError,  # what torch raises where a file holds more than tensors
)


class ModelError(ValueError):
    """A model that cannot be loaded, or is not what was asked for; the message says what to do."""


def load_encoder(
    name: str | Path,
    num_layers: int | None = None,
    dropout: float | None = None,
    may_be_causal: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """An encoder and its tokenizer.

    Args:
        name: hub name or folder.
        num_layers: keep the first layers only; None = all.
        dropout: of hidden states and attention; None = as the model says.
        may_be_causal: whether a causal language model will do, as where it is known to embed texts.

    Raises:
        ModelError: not to be loaded, no encoder, or fewer layers than asked for.
    """
    config = _load("retriever", name, AutoConfig.from_pretrained)
    depth = getattr(config, "num_hidden_layers", None)
    is_encoder = not config.is_encoder_decoder and (may_be_causal or not _is_decoder(config))
    if not is_encoder or depth is None:
        raise ModelError(f"retriever {name}: a {config.model_type} model is no encoder; use one such as BERT")
    if num_layers is not None:
        if not 1 <= num_layers <= depth:
            raise ModelError(f"retriever {name} has {depth} layers; num_layers={num_layers} is not within")
        config.num_hidden_layers = num_layers
    if dropout is not None:
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
    # the head that pools the first token is not used, and fewer layers leave weights unused on purpose
    kwargs = {"add_pooling_layer": False} if config.model_type in ("bert", "roberta", "xlm-roberta") else {}
    model = _load("retriever", name, AutoModel.from_pretrained, config=config, **kwargs)
    return model, _load_tokenizer("retriever", name)


def load_causal_lm(
    name: str | Path, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A decoder-only language model on `scaled_dot_product_attention`, and its tokenizer.

    Args:
        name: hub name, folder, or a .gguf file.
        dtype: of the weights.

    Raises:
        ModelError: not to be loaded, or not decoder-only.
    """
    if str(name).endswith(".gguf"):
        return _load_gguf(name, dtype)
    config = _load("reader", name, AutoConfig.from_pretrained)
    if config.is_encoder_decoder:
        raise ModelError(
            f"reader {name}: {config.model_type} is an encoder-decoder model where a decoder-only reader is "
            "expected; set family=auto, or name to a causal language model"
        )
    if not _is_decoder(config):
        raise ModelError(
            f"reader {name}: a {config.model_type} model is no decoder-only language model; set name to one"
        )
    model = _load(
        "reader", name, AutoModelForCausalLM.from_pretrained, dtype=dtype, attn_implementation="sdpa"
    )
    return model, _load_tokenizer("reader", name)


def _load_gguf(name: str | Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    path = Path(name)
    if not path.is_file():
        raise ModelError(f"reader {name}: there is no such file")

    def decode(folder: Path) -> None:
        model, tokenizer = _decode_gguf(path, torch.float32)
        save_pretrained(model, tokenizer, folder)

    folder = decoded(path, decode)
    return _decode_gguf(path, dtype) if folder is None else load_causal_lm(folder, dtype)


def _decode_gguf(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """As transformers does it."""
    file = {"gguf_file": path.name}
    with _reading_fields_once():
        model = _load(
            "reader",
            path.parent,
            AutoModelForCausalLM.from_pretrained,
            dtype=dtype,
            attn_implementation="sdpa",
            **file,
        )
        tokenizer = _load_tokenizer("reader", path.parent, **file)
    # the weights are plain numbers now; a saved copy must not look for the GGUF file again
    del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    return model, tokenizer


@contextlib.contextmanager
def _reading_fields_once() -> Iterator[None]:
    """Within it a .gguf file's fields and names are found once, where transformers takes seconds thrice."""
    try:
        import gguf
    except ImportError:  # which transformers will say
        yield
        return
    package: Any = gguf
    slow = {name: getattr(package, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, function in slow.items():
        setattr(package, name, functools.cache(function))
    try:
        yield
    finally:
        for name, function in slow.items():
            setattr(package, name, function)


def load_seq2seq(
    name: str | Path, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A T5 on `scaled_dot_product_attention`, and its tokenizer.

    Args:
        name: hub name or folder.
        dtype: of the weights.

    Raises:
        ModelError: not to be loaded, or no T5.
    """
    config = _load("reader", name, AutoConfig.from_pretrained)
    if config.model_type != "t5":
        kind = "an encoder-decoder" if config.is_encoder_decoder else "a decoder-only"
        raise ModelError(
            f"reader {name}: {config.model_type} is {kind} model where a T5 is expected; set family=auto, "
            "or name to one"
        )
    model = _load(
        "reader", name, AutoModelForSeq2SeqLM.from_pretrained, dtype=dtype, attn_implementation="sdpa"
    )
    return model, _load_tokenizer("reader", name)


def load_cross_encoder(name: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """An encoder with a head that scores pairs of texts, and its tokenizer.

    Args:
        name: hub name or folder, of sentence-transformers or transformers.

    Raises:
        ModelError: not to be loaded, or without such a head.
    """
    model = _load("reranker", name, AutoModelForSequenceClassification.from_pretrained)
    return model, _load_tokenizer("reranker", name)


def fetch_retriever(name: str | Path) -> Path:
    """The folder of a retriever, downloaded if it is not on this machine yet.

    Raises:
        ModelError: there is none.
    """
    return _fetch("retriever", name)


def reader_config(name: str | Path) -> PreTrainedConfig:
    """The configuration of a reader from the hub or a folder, which says what kind of model it is.

    Raises:
        ModelError: not to be loaded.
    """
    return _load("reader", name, AutoConfig.from_pretrained)


def save_pretrained(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Writes a model (safetensors) and its tokenizer where `load_*` reads them.

    Args:
        model: of transformers.
        tokenizer: its own.
        folder: which is made.
        weights: to write in place of the model's own.

    Raises:
        DataError: the disk is full.
    """
    try:
        with _quiet():
            model.save_pretrained(folder, state_dict=weights)  # type: ignore[operator]
            tokenizer.save_pretrained(folder)
    except SafetensorError as error:
        raise cannot_write(folder, error) from error


def _is_decoder(config: PreTrainedConfig) -> bool:
    """Whether the model sees the past only; encoders that can be set up so have masked-LM heads too."""
    kind = config.model_type
    causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return causal or bool(getattr(config, "is_decoder", False))


def _load_tokenizer(what: str, name: str | Path, **kwargs: Any) -> PreTrainedTokenizerBase:
    tokenizer = _load(what, name, AutoTokenizer.from_pretrained, **kwargs)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        # what transformers makes of a model without tokenizer files
        raise ModelError(f"{what} {name}: cannot be loaded from this folder: its tokenizer.json is missing")
    return tokenizer


def _fetch(what: str, name: str | Path) -> Path:
    try:
        return fetch_model(name, what)
    except DataError as error:
        raise ModelError(str(error)) from error


def _load(what: str, name: str | Path, load: Any, **kwargs: Any) -> Any:
    folder = _fetch(what, name)
    is_model = load not in (AutoConfig.from_pretrained, AutoTokenizer.from_pretrained)
    if is_model:
        # safetensors where there are some; an older pytorch_model.bin (Contriever's) as plain tensors only
        kwargs["weights_only"] = True
        kwargs["output_loading_info"] = True
    try:
        with _quiet():
            loaded = load(str(folder), trust_remote_code=False, **kwargs)
    except _LOADING_ERRORS as error:
        raise ModelError(_explain(what, name, folder, error)) from error
    return _without_made_up_weights(what, name, *loaded) if is_model else loaded


def _without_made_up_weights(
    what: str, name: str | Path, model: PreTrainedModel, report: dict[str, Any]
) -> PreTrainedModel:
    """The model, if all its weights come from the files; transformers makes random ones up for the rest."""
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ModelError(
            f"{what} {name}: its files lack {len(missing)} weights of a {type(model).__name__}, such as "
            f"{missing[0]}; they are incomplete, or of another kind of model"
        )
    return model


def _explain(what: str, name: str | Path, folder: Path, error: Exception) -> str:
    detail = " ".join(str(error).split())[:300]
    if "ignore_mismatched_sizes" in detail:
        detail = "the shapes of its weights are not those of its config.json"
    where = "this folder" if Path(name) == folder else str(folder)
    return f"{what} {name}: cannot be loaded from {where}: {detail}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no report on weights that were left out on purpose; errors still raise."""
    verbosity = transformers_logging.get_verbosity()
    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        # the GGUF reader draws a bar of its own
        with only_errors_of("huggingface_hub"), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if was_enabled:
            transformers_logging.enable_progress_bar()
