"""The one typed configuration; the YAML files hold differences from its defaults."""

import copy
import difflib
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import Field, dataclass, field, fields, is_dataclass
from functools import cache
from operator import attrgetter
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from datamodules.durable_files import write_durably
from datamodules.sealed_files import DamagedFileError, read_with_checksum, with_checksum
from datamodules.templates import find_template

CONFIGS = Path(__file__).parent / "configs"
PAPER_SCALE = "paper"
SCALES = ("embedded", PAPER_SCALE, "own")
FSDP = "fsdp"
STRATEGIES = ("auto", "ddp", FSDP)
ACCELERATORS = ("auto", "cpu", "gpu")
READER_DTYPES = ("auto", "float32", "bfloat16", "float16")
FAST = "bf16-if-fast"
SCALES_LOSS = "16-mixed"
PRECISIONS = ("auto", FAST, "32-true", "bf16-mixed", SCALES_LOSS, "bf16-true", "16-true", "64-true")
"""Beside auto those of Lightning's that need no further package."""
SETTING = "setting"
"""What a field's metadata keeps its `Setting` as."""

T = TypeVar("T")


class ConfigError(ValueError):
    """A setting that cannot be; the message names it and says what to set instead."""


@dataclass(frozen=True)
class Setting:
    """What a field of the configuration is for, and what it may be beside what its type says.

    Attributes:
        help: one line.
        choices: the names that it may be.
        at_least, above: lower bound, itself allowed or not; of a list's items where it is one.
        at_most, below: upper bound, likewise.
        parse: reads its text, or each of a list, and raises `ValueError` where that is malformed.
        takes_lines: whether its text may be of several lines.
    """

    help: str
    choices: Callable[[], Sequence[str]] | None = None
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    parse: Callable[[str], object] | None = None
    takes_lines: bool = False

    @property
    def is_bounded(self) -> bool:
        """Whether it is a number, or a list of numbers, within bounds."""
        return any(bound is not None for bound in (self.at_least, self.above, self.at_most, self.below))


def about(help: str, **rules: Any) -> dict[str, Setting]:
    """The metadata of a field: one line of help and what it may be, see `Setting`."""
    return {SETTING: Setting(help, **rules)}


def setting(default: T, help: str, **rules: Any) -> T:
    """A field with a default, one line of help and what it may be, see `Setting`."""
    made: T = field(default=default, metadata=about(help, **rules))
    return made


def names_in(owner: str, *others: str) -> Callable[[], Sequence[str]]:
    """The choices of an enum or a registry, such as "lightning_modules.objectives:OBJECTIVES".

    They are looked up when asked for: a configuration can be shown without importing torch.

    Args:
        owner: where they are defined.
        others: names offered before them.
    """
    return lambda: (*others, *map(str, pkgutil.resolve_name(owner)))


def parsed_by(owner: str) -> Callable[[str], object]:
    """A function such as "callbacks.refresh_schedule:parse_refresh", looked up when called."""
    return lambda text: pkgutil.resolve_name(owner)(text)


def parse_name(text: str) -> str:
    """The name of an experiment, which is the folder of its runs within `runs`.

    Raises:
        ValueError: it could lead elsewhere.
    """
    if re.fullmatch(r"\w[\w.+-]{0,99}", text) is None:
        raise ValueError(
            f"{text!r} cannot be the name of a folder within runs; take up to 100 letters, digits, '_', '-', "
            "'+' and '.', and begin with a letter, a digit or '_'"
        )
    return text


@dataclass
class DataConfig:
    """Questions and passages."""

    root: str = setting("data", "folder that relative file names are looked for in")
    train: str = setting("vital", 'question file, or "vital" for the embedded set')
    validation: str = setting(
        "vital", 'likewise; "held_out" = a fifth of the questions of train, at most 1,000, taken out of it'
    )
    test: str = setting("vital", "likewise, others than those of validation")
    passages: str = setting("vital", 'passage file, or "vital" for the embedded corpus')
    gold_titles: str | None = setting(
        None,
        "file of the titles of the passages that answer validation questions, as DPR publishes it, so that "
        "the part that validations search holds them",
    )
    source: str = setting(
        "dpr", "of the published question files", choices=names_in("datamodules.sources:QuestionSource")
    )
    download: bool = setting(True, "fetch published files that are missing into root")
    verify_sizes: bool = setting(True, "refuse a published file that holds another number than published")
    train_answers: bool = setting(
        True, "false = train as if nobody knew the answers to the training questions"
    )
    max_train: int | None = setting(None, "use the first n questions of the split; null = all", at_least=1)
    max_validation: int | None = setting(None, "likewise", at_least=1)
    max_test: int | None = setting(None, "likewise", at_least=1)
    max_passages: int | None = setting(
        None, "a slice: the questions' gold passages first, then others; null = all", at_least=1
    )
    batch_size: int = setting(1, "questions a training step, of one device", at_least=1)
    evaluation_batch_size: int = setting(4, "questions a validation or test step", at_least=1)
    noun_model: str = setting("embedded", 'spaCy model, or "embedded"')


@dataclass
class ReaderConfig:
    """The language model that answers."""

    name: str = setting(
        "embedded", 'hub name, perhaps with a revision (owner/name@commit), folder, .gguf file, or "embedded"'
    )
    family: str = setting(
        "auto",
        "auto = as the model says",
        choices=names_in("lightning_modules.readers.families:FAMILIES", "auto"),
    )
    context: str = setting(
        "concatenated",
        "whether a decoder-only reader sees the passages together or one by one",
        choices=names_in("datamodules.prompts:Context"),
    )
    token_scope: str = setting(
        "passage",
        "which tokens count for a passage: its own, or all of its prompt",
        choices=names_in("datamodules.batches:TokenScope"),
    )
    passage_order: str = setting(
        "rank",
        "of the passages in a concatenated prompt",
        choices=names_in("datamodules.prompts:PassageOrder"),
    )
    attention_heads: str | None = setting(
        None,
        "layer.head that teach, such as 12.3,14.*,0-3.*; layers:10-14; a method's best: qrhead:16, core:8; a "
        ".json file of experiments.select_heads; null = all",
        parse=parsed_by("lightning_modules.head_lists:parse_heads"),
    )
    dtype: str = setting(
        "float32",
        "of its weights, where these are frozen; auto = bfloat16 where the hardware multiplies it, else "
        "float32",
        choices=lambda: READER_DTYPES,
    )
    lora_rank: int | None = setting(
        None,
        "train LoRA matrices of this rank beside the weights, which are frozen; null = all weights",
        at_least=1,
    )
    lora_alpha: float | None = setting(
        None, "LoRA matrices are scaled with alpha / rank; null = twice the rank", above=0
    )
    gradient_checkpointing: bool = setting(
        False, "where it is trained: keep few activations and compute them again, for less memory"
    )
    max_tokens_per_passage: int = setting(128, "of a prompt, for each passage in it", at_least=1)
    max_new_tokens: int = setting(32, "of an answer", at_least=1)
    read_once: bool = setting(
        True, "keep what a frozen reader gives for each question, answer and passage read alone, for all runs"
    )
    read_once_gb: float = setting(
        8.0, "what is kept of all readers, at most; then the oldest is deleted", above=0
    )
    template: str = setting(
        "plain",
        "how prompts are written: plain, few_shot, chat (by the tokenizer's own chat template), or a file",
        parse=parsed_by("datamodules.templates:find_template"),
    )
    num_examples: int | None = setting(
        None,
        "solved training questions, with passage and answer, before each prompt; not trained on; null = 3 "
        "with template few_shot, else none",
        at_least=0,
        at_most=16,
    )


@dataclass
class RetrieverConfig:
    """The encoder that finds passages."""

    name: str = setting(
        "embedded", 'hub name, perhaps with a revision (owner/name@commit), folder, or "embedded"'
    )
    num_layers: int | None = setting(None, "keep the first layers only; null = all", at_least=1)
    normalize: bool | None = setting(
        None,
        "embeddings of length 1, so that s is their cosine; null = as a model of sentence-transformers says, "
        "false for any other",
    )
    pooling: str | None = setting(
        None,
        "what of the hidden states an embedding is; null = as a model of sentence-transformers says, mean "
        "for any other",
        choices=names_in("lightning_modules.pooling:Pooling"),
    )
    query_prompt: str | None = setting(
        None,
        "what each query begins with, such as 'query: ' for E5; null = as a model of sentence-transformers "
        "says, nothing for any other",
        takes_lines=True,
    )
    passage_prompt: str | None = setting(None, "what each passage begins with; likewise", takes_lines=True)
    tied: bool = setting(True, "one encoder for queries and passages")
    train_passage_encoder: bool = setting(True, "false = query-side fine-tuning, of two encoders")
    dropout: float | None = setting(None, "null = as the model says", at_least=0, at_most=1)
    rerank_from: int | None = setting(
        None, "rank so many passages of the index by fresh embeddings; null = do not", at_least=1
    )
    max_query_tokens: int = setting(64, "longer queries are cut off", at_least=1)
    max_passage_tokens: int = setting(160, "longer passages are cut off", at_least=1)
    num_at_once: int | None = setting(
        None,
        "texts whose activations training keeps at a time, for large batches; null = all",
        at_least=1,
    )


@dataclass
class RetrievalConfig:
    """Which passages a question is read with: its candidates."""

    candidates: str = setting(
        "index",
        "who finds them",
        choices=names_in("lightning_modules.candidates:CandidateSource"),
    )
    choice: str = setting(
        "first",
        "which K of them: the first, or others in each step",
        choices=names_in("lightning_modules.candidates:CandidateChoice"),
    )
    num_from_each: int | None = setting(
        None, "the first n of the index, and of BM25, are chosen from; null = K", at_least=1
    )
    are_fixed: bool = setting(
        False,
        "keep what was found for a training question before the first step; false = find anew each time",
    )
    bm25_baseline: bool | None = setting(
        None, "measure BM25's Hit Rate too; null = with at most a million passages"
    )


@dataclass
class SignalsConfig:
    """Weights of the signals that `objective.name=signals` adds up; 0 = not used."""

    answer: float = setting(1.0, "attention of the rows that predict the answer", at_least=0)
    question: float = setting(1.0, "attention of the question's own rows", at_least=0)
    last: float = setting(0.0, "attention of the row that predicts the first answer token", at_least=0)
    likelihood: float = setting(1.0, "of the answer, given the passage alone", at_least=0)


@dataclass
class CalibrationConfig:
    """What is taken off the attention that `objective.name=signals` adds up."""

    reference: str = setting(
        "none",
        "what else is asked of each passage",
        choices=names_in("lightning_modules.calibration:Reference"),
    )
    contrast: str = setting(
        "log_ratio", "how it is taken off", choices=names_in("lightning_modules.calibration:Contrast")
    )
    level: str = setting("passage", "of what", choices=names_in("lightning_modules.calibration:Level"))
    num_unrelated: int = setting(3, "training questions asked for unrelated", at_least=2)


@dataclass
class ObjectiveConfig:
    """From what the reader gives to the loss."""

    name: str = setting(
        "adist", "what the retriever learns from", choices=names_in("lightning_modules.objectives:OBJECTIVES")
    )
    scores_from: str | None = setting(
        None,
        "train on the scores in this file, of experiments.score or anybody's, in place of a reader's; null = "
        "on what objective.name makes of the reader",
    )
    passage_score: str = setting(
        "sum",
        "of its tokens' scores, for adist; mean and first favour short passages",
        choices=names_in("lightning_modules.scores:PASSAGE_SCORES"),
    )
    attention_distribution: str = setting(
        "softmax",
        "how passage scores become p_ATTN, for adist",
        choices=names_in("lightning_modules.scores:AttentionDistribution"),
    )
    attention_temperature: float = setting(
        1.0, "tau_gold: divides the scores of adist, pdist and loop", above=0
    )
    scale: str = setting(
        "raw",
        "of a question's scores before that: as they are, standardised, or from 0 to 1",
        choices=names_in("lightning_modules.scores:Scale"),
    )
    signals: SignalsConfig = field(default_factory=SignalsConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    reader_temperature: float = setting(1.0, "divides the reader's logits in emdr2", above=0)
    retrieval_temperature: float | None = setting(
        1.0,
        "theta; null = such that scores / theta of a question's passages differ by 2 at the start",
        above=0,
    )
    in_batch: bool = setting(
        False, "p_RETR over the passages of the batch's other questions too, which the target gives nothing"
    )
    constants: str = setting(
        "plain",
        "scale factors of the scores and the loss",
        choices=names_in("lightning_modules.objectives:Constants"),
    )


@dataclass
class TrainingConfig:
    """What is trained, and how fast."""

    train_retriever: bool = setting(True, "from the reader, as the objective says")
    train_reader: bool = setting(False, "on the answers")
    answer_choice: str = setting(
        "sampled",
        "of several answers: another one in each step, the first, or the canonical one (TriviaQA on the hub)",
        choices=names_in("lightning_modules.retriever_reader:AnswerChoice"),
    )
    num_passages: int = setting(5, "K: retrieved for a question, and read", at_least=1)
    retriever_lr: float = setting(1e-5, "peak learning rate", at_least=0)
    retriever_warmup_steps: int = setting(0, "of linear warm-up", at_least=0)
    reader_lr: float = setting(1e-5, "peak learning rate", at_least=0)
    reader_warmup_steps: int = setting(0, "of linear warm-up", at_least=0)
    decay: str = setting(
        "linear",
        "of the learning rates after the warm-up",
        choices=names_in("lightning_modules.optimization:LearningRateDecay"),
    )
    weight_decay: float = setting(0.0, "decoupled (AdamW)", at_least=0)


@dataclass
class TrainerConfig:
    """How long, on what, how often."""

    max_steps: int = setting(1000, "optimizer steps; 0 = nothing is trained", at_least=0)
    accumulate: int = setting(1, "batches an optimizer step", at_least=1)
    auto_batch: bool = setting(
        False,
        "where a batch does not fit into the memory, compute it in halves, quarters, ..., to the same result",
    )
    max_skipped_in_a_row: int = setting(
        10,
        "steps that are skipped, since their loss or gradient is NaN or infinite, before the run ends",
        at_least=0,
        at_most=1000,
    )
    gradient_clip: float | None = setting(1.0, "largest norm of the gradient; null = any", above=0)
    accelerator: str = setting("auto", "auto = the GPU where there is one", choices=lambda: ACCELERATORS)
    devices: int = setting(1, "how many of them, on each machine", at_least=1)
    num_nodes: int = setting(
        1, "machines; if more than one, torchrun or srun starts the processes", at_least=1
    )
    strategy: str = setting(
        "auto",
        "of several devices: ddp = each holds both models; fsdp = a frozen reader is sharded over them; "
        "auto = ddp",
        choices=lambda: STRATEGIES,
    )
    precision: str = setting(
        "auto",
        "auto = bf16-mixed on a GPU that has it, else 32-true; bf16-if-fast = on such a CPU too",
        choices=lambda: PRECISIONS,
    )
    validate_every_steps: int = setting(100, "optimizer steps", at_least=1)
    checkpoint_every_steps: int = setting(100, "optimizer steps", at_least=1)
    log_every_steps: int = setting(1, "optimizer steps", at_least=1)
    loggers: list[str] = field(
        default_factory=lambda: ["tensorboard"],
        metadata=about(
            "where metrics and the configuration go; wandb and mlflow come with the extra loggers, trackio "
            "with the extra trackio",
            choices=names_in("experiments.loggers:LOGGERS"),
        ),
    )
    progress_bar: bool = setting(True, "show one")


@dataclass
class IndexConfig:
    """The FAISS index."""

    refresh: str = setting(
        "-1",
        "Atlas's schedule syntax; -1 = at the start only; when_stale[:OVERLAP] = where the top-K overlap is "
        "measured below OVERLAP (0.9)",
        parse=parsed_by("callbacks.refresh_schedule:parse_refresh"),
    )
    factory: str = setting(
        "Flat", "FAISS factory string", parse=parsed_by("datamodules.passage_index:check_factory")
    )
    gpu: bool | None = setting(
        None, "search on it; null = where there is one (and for all but Flat a FAISS that can use it)"
    )
    batch_size: int = setting(64, "passages embedded at a time", at_least=1)
    refresh_before_validation: bool = setting(False, "so that each validation is on a fresh index")
    validation_passages: int | None = setting(
        None,
        "validations search so many passages, encoded anew for each: gold ones, what the start and BM25 rank "
        "first, and random ones; null = the whole index",
        at_least=1,
    )
    staleness_every_steps: int | None = setting(
        None,
        "how often to measure how far the retriever is from the index; null = at validations only, and not "
        "where nothing searches it between them",
        at_least=1,
    )


@dataclass
class EvaluationConfig:
    """What validations and tests measure."""

    num_read: int | None = setting(
        None, "questions a validation reads; all are retrieved for; null = all", at_least=0
    )
    num_read_test: int | None = setting(None, "questions a test reads; null = all", at_least=0)
    closed_book: bool = setting(False, "EM and F1 without passages; nothing is trained or retrieved")
    retrieve_only: bool = setting(False, "Hit Rate alone; nothing is trained, no reader loaded")
    generate_in_validation: bool = setting(True, "EM and F1 at each validation, not only in the tests")
    hit_rate_ks: list[int] = field(
        default_factory=lambda: [1, 5, 20], metadata=about("the k of Hit Rate@k", at_least=1)
    )
    answer_match: str = setting(
        "tokens",
        "what it takes for a passage to hold an answer",
        choices=names_in("datamodules.answer_matching:AnswerMatch"),
    )
    percentiles: list[int] = field(
        default_factory=lambda: [90, 95], metadata=about("of the indicators", at_least=0, at_most=100)
    )
    attention_normalization: str = setting(
        "passage",
        "what the indicators divide token scores by",
        choices=names_in("lightning_modules.metrics.indicators:AttentionNormalization"),
    )
    token_embeddings: str = setting(
        "input",
        "where the indicators take token embeddings from",
        choices=names_in("lightning_modules.readers.outputs:TokenEmbeddings"),
    )
    token_drops: str = setting(
        "masked",
        "how token scores of pdist, emdr2 and loop are found",
        choices=names_in("lightning_modules.token_drops:TokenDrops"),
    )
    token_view_questions: int = setting(
        3, "passages shaded by attention, as HTML at each validation; 0 = none", at_least=0
    )
    monitor: str | None = setting(
        "validation/hr_at_5", "the best checkpoint is kept by this; null = the last one"
    )


@dataclass
class StoppingConfig:
    """What a run does when its retriever, or a reader that is trained, has become worse, or good enough."""

    enabled: bool = setting(True, "let validations decide; false turns off all of it")
    rule: str = setting(
        "paired",
        "compare with the start question by question, or go by the paper's own rules for its indicators",
        choices=names_in("callbacks.threshold:Rule"),
    )
    thresholds: list[str] = field(
        default_factory=list,
        metadata=about(
            "bounds on means that a validation logs, beside the rule, each with a patience and an action of "
            'its own where it says so: ["validation/hr_at_5 >= start - 0.02 for 3 then stop"]',
            parse=parsed_by("callbacks.threshold:Threshold.parse"),
        ),
    )
    monitors: list[str] | None = field(
        default=None,
        metadata=about(
            "metrics that rule=paired compares; null = retrieval/hit, and of a reader that is trained "
            "start_candidates/indicator1/spearman_p90 and start_candidates/teacher/auc"
        ),
    )
    action: str = setting("stop", "what follows a decline", choices=names_in("callbacks.decisions:Action"))
    baseline: str | None = setting(
        None, 'JSON of an earlier run or probe (its "instances"); null = the run\'s start'
    )
    margin: float = setting(0.0, "a decline that is tolerated", at_least=0)
    patience: int = setting(2, "validations in a row", at_least=1)
    num_validations: int | None = setting(
        None, "that share the rate of false stops; null = as many as the run has", at_least=1
    )
    false_stop_rate: float = setting(0.05, "of a whole run in which nothing declines", above=0, below=0.5)
    target: float | None = setting(None, "stop once the first monitor is at least this; null = never")


@dataclass
class CollapseConfig:
    """What ends a run as collapsed; numbers that break are `trainer.max_skipped_in_a_row`'s."""

    enabled: bool = setting(True, "look for a collapse")
    hit_rate_drop: float = setting(0.5, "relative to the start", at_least=0, at_most=1)
    effective_rank_ratio: float = setting(0.2, "of the embeddings, to the start's", at_least=0, at_most=1)
    duplicate_rise: float = setting(
        0.2, "share of near-duplicate embeddings above the start's", at_least=0, at_most=1
    )


@dataclass
class InitConfig:
    """Weights of an earlier run to start from."""

    reader_from: str | None = setting(
        None, 'run folder; "latest:NAME" = the newest finished run of an experiment; null = as it comes'
    )
    retriever_from: str | None = setting(None, "likewise")


@dataclass
class ExperimentConfig:
    """Everything a run depends on."""

    name: str = setting("???", "of the experiment", parse=parse_name)
    description: str = setting("", "a line for --list")
    scale: str = setting("embedded", "reports never mix the two", choices=lambda: SCALES)
    seed: int = setting(0, "of everything random", at_least=0, at_most=2**32 - 1)
    runs: str = setting("runs", "folder of all runs")
    data: DataConfig = field(default_factory=DataConfig)
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    retriever: RetrieverConfig = field(default_factory=RetrieverConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    stopping: StoppingConfig = field(default_factory=StoppingConfig)
    collapse: CollapseConfig = field(default_factory=CollapseConfig)
    init: InitConfig = field(default_factory=InitConfig)


def reads_train_questions(config: ExperimentConfig) -> bool:
    """Whether a run needs the training questions: to train, to show or ask some, or to cut the same slice."""
    calibrates = config.objective.calibration.reference == "unrelated"
    shows_them = num_examples(config) > 0 and has_reader(config)
    return trains(config) or config.data.max_passages is not None or calibrates or shows_them


def num_examples(config: ExperimentConfig) -> int:
    """Solved examples before each prompt: `reader.num_examples`, or as many as the template shows."""
    asked_for = config.reader.num_examples
    return find_template(config.reader.template).num_examples if asked_for is None else asked_for


def has_reader(config: ExperimentConfig) -> bool:
    """Whether a run has a reader: to measure it, to train it or to learn from it."""
    return not config.evaluation.retrieve_only and config.objective.scores_from is None


def trains(config: ExperimentConfig) -> bool:
    """Whether a run trains anything, or only measures."""
    return config.trainer.max_steps > 0 and (config.training.train_retriever or config.training.train_reader)


def trains_retriever(config: ExperimentConfig) -> bool:
    """Whether a run trains the retriever."""
    return trains(config) and config.training.train_retriever


def measures_staleness(config: ExperimentConfig) -> bool:
    """Whether a run measures how stale its index is: not of one that nothing searches between validations."""
    index = config.index
    if not trains_retriever(config):
        return False
    is_searched = not config.retrieval.are_fixed or index.validation_passages is None
    return is_searched or index.staleness_every_steps is not None or index.refresh.startswith("when_stale")


_WHERE_IT_RUNS = (
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.auto_batch",
    "trainer.loggers",
    "trainer.progress_bar",
    "index.gpu",
    "index.batch_size",
    "data.evaluation_batch_size",
)
"""Settings of the hardware, of how much it takes at a time, and of what is shown."""


def measured_otherwise(own: ExperimentConfig, changed: ExperimentConfig) -> list[str]:
    """Keys of different values by which something else is measured: all but those of where it runs.

    Example:
        >>> own = load_config("quickstart")
        >>> measured_otherwise(own, load_config("quickstart", ["seed=7", "trainer.accelerator=cpu"]))
        ['seed']
    """
    return [key for key in _differing(own, changed) if key not in _WHERE_IT_RUNS]


def _differing(one: ExperimentConfig, other: ExperimentConfig) -> Iterator[str]:
    """Keys whose values differ."""
    for key, item in all_fields():
        if not is_dataclass(item.type) and attrgetter(key)(one) != attrgetter(key)(other):
            yield key


def all_fields(schema: Any = ExperimentConfig, prefix: str = "") -> Iterator[tuple[str, Field[Any]]]:
    """Every key of the configuration with its field, sections before what they hold."""
    for item in fields(schema):
        yield f"{prefix}{item.name}", item
        if is_dataclass(item.type):
            yield from all_fields(item.type, f"{prefix}{item.name}.")


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_KINDS_OF_LISTS = {int: "whole numbers", float: "numbers", str: "texts"}


def takes(item: Field[Any]) -> str:
    """What a field takes, in words: `a whole number, or null`."""
    if is_dataclass(item.type):
        return f"no value itself: set one of its keys, such as {item.name}.{fields(item.type)[0].name}"
    types = get_args(item.type) if get_origin(item.type) is UnionType else (item.type,)
    (kind,) = (one for one in types if one is not type(None))
    is_list = get_origin(kind) is list
    said = f"a list of {_KINDS_OF_LISTS[get_args(kind)[0]]}" if is_list else _KINDS[kind]
    return f"{said}, or null" if type(None) in types else said


def in_yaml(value: object) -> str:
    """A value as the command line takes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(in_yaml, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


_IN_YAML = {"=True": "=true", "=False": "=false", "=None": "=null"}


@contextmanager
def naming(*sections: str, **keys: str) -> Iterator[None]:
    """Errors inside name settings where the library names its arguments: `retriever.tied=...` for `tied=...`.

    An argument is recognised at the start of a message, before "=", and after "set", "or", "and" or "with".

    Args:
        sections: of the configuration, whose settings are passed on as arguments of the same names.
        keys: the key of an argument that is named otherwise, or that is set elsewhere this time.
    """
    known = {key.rpartition(".")[2]: key for key, _ in all_fields() if key.rpartition(".")[0] in sections}
    known |= keys
    name = f"(?P<name>{'|'.join(map(re.escape, known))})"
    place = r"(?:^|(?<=\bset )|(?<=\bor )|(?<=\band )|(?<=\bwith )|(?<![\w.])(?=\w+=))"
    argument = re.compile(rf"{place}{name}(?:(?P<value>=(?:True|False|None)\b)|(?=[ =:]))")

    def in_configuration(found: re.Match[str]) -> str:
        return known[found["name"]] + _IN_YAML.get(found["value"], "")

    try:
        yield
    except ValueError as error:
        if len(error.args) == 1:
            error.args = (argument.sub(in_configuration, str(error)),)
        raise


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
    layers = (*_layers(path), OmegaConf.create({"name": name}))
    config = _merge(_defaults(), ((f"experiment {name}", of) for of in layers))
    return _typed(_override(config, overrides))


def overrides_of(config: ExperimentConfig) -> list[str]:
    """What the command line has to say beside `--exp` to get this configuration, as `key=value`."""
    shipped = load_config(config.name) if config.name in experiment_names() else config
    return [f"{key}={in_yaml(attrgetter(key)(config))}" for key in _differing(config, shipped)]


def read_config(path: Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """The resolved configuration that a run saved, with `key=value` overrides on top.

    Raises:
        ConfigError: there is none, it is damaged, or an override cannot be used.
    """
    try:
        saved = OmegaConf.create(read_with_checksum(path))
    except FileNotFoundError as error:
        raise ConfigError(f"{path.parent} is not a run: it holds no {path.name}") from error
    except DamagedFileError as error:
        raise ConfigError(
            f"{error}; put a copy back, or take its line `# checksum: ...` out if you changed it on purpose"
        ) from error
    except Exception as error:  # the YAML parser's own errors are of many kinds
        said = next(iter(str(error).splitlines()), "it holds one value")  # OmegaConf says nothing of a number
        raise ConfigError(f"{path} is no YAML with settings ({said}); put a copy back") from error
    if isinstance(saved, DictConfig):
        _refuse_interpolations(saved, where=str(path))
    if not isinstance(saved, DictConfig) or "name" not in saved:
        raise ConfigError(f"{path} is no configuration: it holds no settings; put a copy back")
    return _typed(_override(_merge(_defaults(), [(str(path), saved)]), overrides))


def to_yaml(config: ExperimentConfig) -> str:
    """The whole configuration as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def save_config(config: ExperimentConfig, path: Path, comment: str = "") -> None:
    """Writes what `read_config` reads.

    Args:
        config: of a run.
        path: of the file.
        comment: its second line, behind that of the checksum.
    """
    heading = f"# {comment}\n" if comment else ""
    write_durably(path, with_checksum(heading + to_yaml(config)))


def _defaults() -> DictConfig:
    """All keys with their defaults, to be changed in place."""
    return copy.deepcopy(_structured())


@cache
def _structured() -> DictConfig:
    """Once: a copy takes a fifth of the time."""
    return OmegaConf.structured(ExperimentConfig)


def _layers(path: Path) -> Iterator[DictConfig]:
    """An experiment's `base` fragments in order, then the file itself."""
    layer = OmegaConf.load(path)
    assert isinstance(layer, DictConfig)
    for base in layer.pop("base", []):
        yield from _layers(CONFIGS / "base" / f"{base}.yaml")
    yield layer


def _merge(config: Any, layers: Iterable[tuple[str, Any]]) -> Any:
    """Puts further layers on the configuration, in order; each comes with where it is from.

    In place: a copy for each, as `OmegaConf.merge` makes it, took most of the time to load a configuration.
    """
    for where, layer in layers:
        _refuse_unknown_keys(layer, where)
        try:
            config.merge_with(layer)
        except OmegaConfBaseException as error:
            raise ConfigError(f"{where}: {_wrong_value(layer, getattr(error, 'full_key', None))}") from error
    return config


def _wrong_value(layer: Any, place: str | None) -> str:
    """What a key takes, and what it was given.

    Args:
        layer: that holds the value.
        place: of the value, such as `evaluation.hit_rate_ks[1]`; None = the outermost key of the layer.
    """
    place = place or next(iter(layer))
    known, given = _fields_by_key(), OmegaConf.select(layer, place, throw_on_missing=False)
    key = place.partition("[")[0]
    return f"{place}={in_yaml(given)}: {key} takes {takes(known[key])}"


def _override(config: Any, overrides: Sequence[str]) -> Any:
    return _merge(config, map(_parse_override, overrides))


def _parse_override(text: str) -> tuple[str, Any]:
    """Where it is from, for messages, and the layer that it makes."""
    where = f"override {text!r}"
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override {text!r} is not of the form key=value, such as trainer.max_steps=8")
    if re.fullmatch(r"\d+\.\d+0", value.strip()):
        # YAML would make 12.1 of 12.10, which is another attention head; the schema knows what is a number
        text = f"{key}='{value.strip()}'"
    field_of = _fields_by_key().get(key.strip())
    if (
        field_of is not None
        and takes(field_of).startswith("a list")
        and not value.strip().startswith(("[", "{"))
    ):
        # 5 for [5], and 1,5 for [1,5]
        text = text if value.strip() in ("null", "") else f"{key}=[{value.strip()}]"
    try:
        layer = OmegaConf.from_dotlist([text])
    except Exception as error:  # the YAML parser's own errors are of many kinds
        taken = "" if field_of is None else f"; {key.strip()} takes {takes(field_of)}"
        raise ConfigError(
            f"override {text!r} cannot be parsed: {str(error).splitlines()[0]}{taken}"
        ) from error
    _refuse_interpolations(layer, where)
    return where, layer


def _refuse_interpolations(layer: Any, where: str) -> None:
    """OmegaConf's `${oc.env:NAME}` reads the environment, and what it says would be saved and shown.

    The shipped files, which nobody sends, may refer to their own keys.
    """
    for text in _texts_in(OmegaConf.to_container(layer, resolve=False)):
        if "${" in text:
            raise ConfigError(
                f"{where}: {text!r} refers to something else, which is not allowed: it could show what is in "
                "the environment; write the value itself (a shell replaces ${NAME} within double quotes)"
            )


def _texts_in(value: Any) -> Iterator[str]:
    """All text in nested lists and mappings, their keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from _texts_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts_in(item)


def _refuse_unknown_keys(layer: Any, where: str) -> None:
    for key in _used_keys(layer):
        if key not in _fields_by_key():
            raise ConfigError(f"{where}: unknown key {key!r}{_nearest(key, _fields_by_key())}")


@cache
def _fields_by_key() -> Mapping[str, Field[Any]]:
    return dict(all_fields())


def _used_keys(layer: Any, prefix: str = "") -> Iterator[str]:
    for key in layer:
        value = layer._get_node(key) if isinstance(layer, DictConfig) else None
        yield f"{prefix}{key}"
        if isinstance(value, DictConfig) and not value._is_none() and not value._is_missing():
            yield from _used_keys(value, f"{prefix}{key}.")


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.0)
    return f"; did you mean {close[0]!r}?" if close else ""


def _typed(config: Any) -> ExperimentConfig:
    try:
        typed = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:  # an interpolation that leads nowhere
        raise ConfigError(
            f"{error.full_key}: {str(error).splitlines()[0]}; write $ and {{ in quotes where they are text"
        ) from error
    assert isinstance(typed, ExperimentConfig)
    return typed
