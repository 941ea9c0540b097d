"""The one typed configuration; the YAML files hold differences from its defaults."""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

CONFIGS = Path(__file__).parent / "configs"


class ConfigError(ValueError):
    """A setting that cannot be; the message names it and the mend."""


@dataclass
class DataConfig:
    """Questions and passages."""

    root: str = "data"  # folder that relative file names are looked for in
    train: str = "vital"  # question file, or "vital" for the embedded set
    validation: str = "vital"
    test: str = "vital"
    passages: str = "vital"  # passage file, or "vital" for the embedded corpus
    source: str = "dpr"  # of the published question files: dpr | hub
    download: bool = True  # fetch published files that are missing into root
    verify_sizes: bool = True  # refuse a published file that holds another number than published
    max_train: int | None = None  # use the first n questions of the split
    max_validation: int | None = None
    max_test: int | None = None
    max_passages: int | None = None  # a slice: the questions' gold passages first, then others
    batch_size: int = 1
    evaluation_batch_size: int = 4
    noun_model: str = "embedded"  # spaCy model, or "embedded"


@dataclass
class ReaderConfig:
    """The language model that answers."""

    name: str = "embedded"  # hub name, folder, .gguf file, or "embedded"
    family: str = "auto"  # auto = as the model says | decoder_only | fusion_in_decoder
    context: str = "concatenated"  # of a decoder-only reader: concatenated | independent
    token_scope: str = "passage"  # passage | prompt
    passage_order: str = "rank"  # rank | shuffled
    attention_heads: str | None = None  # layer.head that teach, such as 12.3,14.*,0-3.*; null = all
    max_tokens_per_passage: int = 128
    max_new_tokens: int = 32


@dataclass
class RetrieverConfig:
    """The encoder that finds passages."""

    name: str = "embedded"  # hub name, folder, or "embedded"
    num_layers: int | None = None  # keep the first layers only
    normalize: bool = False
    tied: bool = True
    train_passage_encoder: bool = True
    dropout: float | None = None  # None = as the model says
    rerank_from: int | None = None  # rank so many passages of the index by fresh embeddings; null = do not
    max_query_tokens: int = 64
    max_passage_tokens: int = 160


@dataclass
class ObjectiveConfig:
    """From what the reader gives to the loss."""

    name: str = "adist"  # adist | pdist | emdr2 | loop
    passage_score: str = "sum"  # sum | mean (favours short passages) | top5 | top10 | top20 | first
    attention_distribution: str = "softmax"  # softmax | sum
    attention_temperature: float = 1.0  # tau_gold: divides the scores of adist, pdist and loop
    reader_temperature: float = 1.0  # divides the reader's logits in emdr2
    retrieval_temperature: float = 1.0  # theta
    constants: str = "plain"  # plain | atlas


@dataclass
class TrainingConfig:
    """What is trained, and how fast."""

    train_retriever: bool = True
    train_reader: bool = False
    num_passages: int = 5
    retriever_lr: float = 1e-5
    retriever_warmup_steps: int = 0
    reader_lr: float = 1e-5
    reader_warmup_steps: int = 0
    decay: str = "linear"  # linear | constant
    weight_decay: float = 0.0


@dataclass
class TrainerConfig:
    """How long, on what, how often."""

    max_steps: int = 1000
    accumulate: int = 1
    gradient_clip: float | None = 1.0
    accelerator: str = "auto"  # auto | cpu | gpu
    devices: int = 1
    precision: str = "auto"  # auto = bf16-mixed where the hardware has it, else 32-true
    validate_every_steps: int = 100
    checkpoint_every_steps: int = 100
    log_every_steps: int = 1
    progress_bar: bool = True


@dataclass
class IndexConfig:
    """The FAISS index."""

    refresh: str = "-1"  # Atlas's schedule syntax; -1 = at the start only; when_stale[:OVERLAP] = see below
    factory: str = "Flat"
    gpu: bool | None = None  # null = where there is a GPU and a FAISS that can use it
    batch_size: int = 64
    refresh_before_validation: bool = False
    # how far the retriever has moved away from the index is measured at each validation, and every so many
    # steps; when_stale refreshes where the top-K overlap is then below OVERLAP (0.9)
    staleness_every_steps: int | None = None


@dataclass
class EvaluationConfig:
    """What validations and tests measure."""

    num_read: int | None = None  # questions a validation reads; all are retrieved for
    num_read_test: int | None = None
    closed_book: bool = False  # EM and F1 without passages; nothing is trained or retrieved
    retrieve_only: bool = False  # Hit Rate alone; nothing is trained, no reader loaded
    generate_in_validation: bool = True  # EM and F1 at each validation, not only in the tests
    hit_rate_ks: list[int] = field(default_factory=lambda: [1, 5, 20])
    answer_match: str = "tokens"  # tokens | substring
    percentiles: list[int] = field(default_factory=lambda: [90, 95])
    attention_normalization: str = "passage"  # passage | prompt | none
    token_embeddings: str = "input"  # input | contextual
    token_drops: str = "masked"  # masked | gradient: token scores of pdist, emdr2 and loop
    token_view_questions: int = 3  # passages shaded by attention, as HTML at each validation; 0 = none
    monitor: str | None = "validation/hr_at_5"  # the best checkpoint is kept by this; null = the last one


@dataclass
class StoppingConfig:
    """What a run does when its teacher has become worse than at the start, or good enough."""

    enabled: bool = True
    # readings that are compared with the start; null = retrieval/hit, and of a reader that is trained
    # start_candidates/indicator1/spearman_p90 and start_candidates/teacher/auc
    monitors: list[str] | None = None
    action: str = "stop"  # stop | freeze_retriever | reader_first
    baseline: str | None = None  # JSON of an earlier run or probe (its "instances"); null = the run's start
    margin: float = 0.0  # a decline that is tolerated
    patience: int = 2  # validations in a row
    num_validations: int | None = None  # that share the rate of false stops; null = as many as the run has
    false_stop_rate: float = 0.05  # of a whole run in which nothing declines
    target: float | None = None  # stop once the first monitor is at least this


@dataclass
class CollapseConfig:
    """What ends a run as collapsed; NaN and infinity always do."""

    enabled: bool = True
    hit_rate_drop: float = 0.5  # relative to the start
    effective_rank_ratio: float = 0.2  # of the embeddings, to the start's
    duplicate_rise: float = 0.2  # share of near-duplicate embeddings above the start's


@dataclass
class InitConfig:
    """Weights of an earlier run to start from."""

    reader_from: str | None = None  # run folder; "latest:NAME" = the newest finished run of an experiment
    retriever_from: str | None = None


@dataclass
class ExperimentConfig:
    """Everything a run depends on."""

    name: str = "???"
    description: str = ""
    scale: str = "embedded"  # embedded | paper; reports never mix the two
    seed: int = 0
    runs: str = "runs"  # folder of all runs
    data: DataConfig = field(default_factory=DataConfig)
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    retriever: RetrieverConfig = field(default_factory=RetrieverConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    stopping: StoppingConfig = field(default_factory=StoppingConfig)
    collapse: CollapseConfig = field(default_factory=CollapseConfig)
    init: InitConfig = field(default_factory=InitConfig)


def reads_train_questions(config: ExperimentConfig) -> bool:
    """Whether a run needs the training questions: to train, or to cut the same slice as runs that do."""
    return trains(config) or config.data.max_passages is not None


def trains(config: ExperimentConfig) -> bool:
    """Whether a run trains anything, or only measures."""
    return config.trainer.max_steps > 0 and (config.training.train_retriever or config.training.train_reader)


def experiment_names() -> list[str]:
    """Every experiment that `--exp` knows."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def load_config(name: str, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Defaults <- the fragments an experiment is based on <- its own file <- `key=value` overrides.

    Raises:
        ConfigError: an unknown experiment or key (the nearest one is named), or a value of the wrong type.
    """
    path = CONFIGS / f"{name}.yaml"
    if name not in experiment_names():
        raise ConfigError(
            f"unknown experiment {name!r}{_nearest(name, experiment_names())}; --list shows all"
        )
    config = OmegaConf.structured(ExperimentConfig)
    for layer in (*_layers(path), OmegaConf.create({"name": name})):
        config = _merge(config, layer, where=f"experiment {name}")
    return _typed(_override(config, overrides))


def read_config(path: Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """The resolved configuration that a run saved, with `key=value` overrides on top."""
    try:
        saved = OmegaConf.load(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{path.parent} is not a run: it holds no {path.name}") from error
    return _typed(
        _override(_merge(OmegaConf.structured(ExperimentConfig), saved, where=str(path)), overrides)
    )


def to_yaml(config: ExperimentConfig) -> str:
    """The whole configuration as YAML, as it is saved with the run."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def _layers(path: Path) -> Iterator[DictConfig]:
    """An experiment's `base` fragments in order, then the file itself."""
    layer = OmegaConf.load(path)
    assert isinstance(layer, DictConfig)
    for base in layer.pop("base", []):
        yield from _layers(CONFIGS / "base" / f"{base}.yaml")
    yield layer


def _merge(config: Any, layer: Any, where: str) -> Any:
    _refuse_unknown_keys(layer, where)
    try:
        return OmegaConf.merge(config, layer)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "the value"
        raise ConfigError(f"{where}: {key}: {str(error).splitlines()[0]}") from error


def _override(config: Any, overrides: Sequence[str]) -> Any:
    for override in overrides:
        config = _merge(config, _parse_override(override), where=f"override {override!r}")
    return config


def _parse_override(text: str) -> Any:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override {text!r} is not of the form key=value, such as trainer.max_steps=8")
    if re.fullmatch(r"\d+\.\d+0", value.strip()):
        # YAML would make 12.1 of 12.10, which is another attention head; the schema knows what is a number
        text = f"{key}='{value.strip()}'"
    try:
        return OmegaConf.from_dotlist([text])
    except Exception as error:  # the YAML parser's own errors are of many kinds
        raise ConfigError(f"override {text!r} cannot be parsed: {str(error).splitlines()[0]}") from error


def _refuse_unknown_keys(layer: Any, where: str) -> None:
    known = set(_all_keys(ExperimentConfig))
    for key in _used_keys(layer):
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}{_nearest(key, known)}")


def _used_keys(layer: Any, prefix: str = "") -> Iterator[str]:
    for key in layer:
        value = layer._get_node(key) if isinstance(layer, DictConfig) else None
        yield f"{prefix}{key}"
        if isinstance(value, DictConfig) and not value._is_none() and not value._is_missing():
            yield from _used_keys(value, f"{prefix}{key}.")


def _all_keys(schema: Any, prefix: str = "") -> Iterator[str]:
    for item in fields(schema):
        yield f"{prefix}{item.name}"
        if is_dataclass(item.type):
            yield from _all_keys(item.type, f"{prefix}{item.name}.")


def _nearest(word: str, known: Sequence[str] | set[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.0)
    return f"; did you mean {close[0]!r}?" if close else ""


def _typed(config: Any) -> ExperimentConfig:
    try:
        typed = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:  # an interpolation that leads nowhere
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(typed, ExperimentConfig)
    return typed
