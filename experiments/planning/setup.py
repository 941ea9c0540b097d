"""What a run is made of on a machine, as far as its configuration and its files' headers tell."""

import gzip
import shlex
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from callbacks.index_builder import IndexBuilder
from datamodules.passage_index import EXACT
from datamodules.passages import KnowledgeBase, knowledge_base_path
from datamodules.prompts import Context
from datamodules.sources import passage_set
from datamodules.vital import VITAL
from experiments.build import (
    MAX_PASSAGES_OF_BASELINE,
    cache_folder,
    hardware,
    reader_dtype,
    searches_on_gpu,
    trains_reader_weights,
    would_search_on_gpu,
)
from experiments.config import (
    FAST,
    FSDP,
    ConfigError,
    ExperimentConfig,
    has_reader,
    overrides_of,
    trains,
    trains_retriever,
)
from experiments.data_files import passage_file
from experiments.planning.machines import Machine
from experiments.planning.model_sizes import ModelSize, reader_size, retriever_size
from experiments.processes import num_processes
from lightning_modules.objectives import OBJECTIVES, Objective
from lightning_modules.readers.fusion_in_decoder import FusionInDecoderReader

VITAL_PASSAGES = 10_033
_NO_MODEL = ModelSize(0, 0, 0, 0, 0)
_SAMPLED_BYTES = 1 << 20
_BYTES_OF_WEIGHT = {"bf16-true": 2, "16-true": 2, "64-true": 8}


@dataclass(frozen=True)
class Setup:
    """A run on a machine.

    Attributes:
        config: of the run.
        machine: that it would run on.
        num_passages: in the knowledge base; None = not known.
        is_counted: whether that is their number, and no estimate from the file's size.
        retriever: of one encoder; None = not known.
        reader: None = not known, or none is loaded.
        on_gpu: whether models are on a GPU.
        precision: of the trainer.
        searches_on_gpu: whether the index is on a GPU.
        reader_bytes: of a weight of the reader while it is frozen.
    """

    config: ExperimentConfig
    machine: Machine
    num_passages: int | None
    is_counted: bool
    retriever: ModelSize | None
    reader: ModelSize | None
    on_gpu: bool
    precision: str
    searches_on_gpu: bool
    reader_bytes: int

    # ---- models ----

    @property
    def trains_retriever(self) -> bool:
        return trains_retriever(self.config)

    @property
    def trains_passage_encoder(self) -> bool:
        """Whether an index becomes stale."""
        settings = self.config.retriever
        return self.trains_retriever and (settings.tied or settings.train_passage_encoder)

    @property
    def trains_reader(self) -> bool:
        return trains(self.config) and self.config.training.train_reader

    @property
    def trains_reader_weights(self) -> bool:
        """Whether the reader's own weights change, and not just LoRA matrices beside them."""
        return self.trains_reader and trains_reader_weights(self.config)

    @property
    def reader_shards(self) -> int:
        """Processes that share the weights of a frozen reader."""
        return num_processes(self.config) if self.config.trainer.strategy == FSDP else 1

    @property
    def has_reader(self) -> bool:
        return has_reader(self.config)

    @property
    def weight_bytes(self) -> int:
        """Of a weight that is trained, and of its gradient and each of AdamW's two moments."""
        return _BYTES_OF_WEIGHT.get(self.precision, 4)

    @property
    def trained_parameters(self) -> int:
        """Of all models together."""
        encoder = self.retriever.parameters if self.retriever and self.trains_retriever else 0
        both = not self.config.retriever.tied and self.config.retriever.train_passage_encoder
        return encoder * (2 if both else 1) + self._trained_in_reader

    @property
    def _trained_in_reader(self) -> int:
        if self.reader is None or not self.trains_reader:
            return 0
        if self.trains_reader_weights:
            return self.reader.parameters
        # LoRA matrices, of the attention's four weights at least
        return 8 * (self.config.reader.lora_rank or 0) * self.reader.dim * self.reader.num_layers

    @property
    def frozen_bytes(self) -> int:
        """Of the weights that are not trained."""
        num_encoders = 1 if self.config.retriever.tied else 2
        if self.trains_retriever:
            num_encoders -= 1 if self.config.retriever.tied else 1 + self.trains_passage_encoder
        encoders = num_encoders * self.weight_bytes * (self.retriever.parameters if self.retriever else 0)
        return encoders + self.frozen_bytes_of_reader

    @property
    def frozen_bytes_of_reader(self) -> int:
        """Of those of the reader alone."""
        if self.reader is None or self.trains_reader_weights:
            return 0
        return self.reader.parameters * min(self.reader_bytes, self.weight_bytes)

    @property
    def is_fusion(self) -> bool:
        """Whether the reader is a Fusion-in-Decoder one."""
        return bool(self.reader and self.reader.in_decoder) or (
            self.config.reader.family == FusionInDecoderReader.family
        )

    @property
    def reads_alone(self) -> bool:
        """Whether a decoder-only reader sees the passages one by one."""
        return not self.is_fusion and self.config.reader.context == Context.INDEPENDENT

    @property
    def keeps_outputs(self) -> bool:
        """Whether what the reader gives for a passage is kept, see `ReadOnce`."""
        settings, evaluation = self.config.reader, self.config.evaluation
        is_enough = evaluation.token_embeddings == "input" and self.reader_shards == 1
        is_frozen = self.has_reader and not self.trains_reader
        return settings.read_once and self.reads_alone and is_frozen and is_enough

    @property
    def needs_teacher(self) -> bool:
        """Whether a training step reads in order to teach the retriever, beside training the reader."""
        objective = OBJECTIVES[self.config.objective.name]
        if not (self.has_reader and self.trains_retriever and objective.uses_reader):
            return False
        # the pass that trains the reader teaches too, where it has no dropout
        is_shared = self.trains_reader and objective.from_student is not Objective.from_student
        return not is_shared or self.reader is None or self.reader.has_dropout

    # ---- index ----

    @property
    def dim(self) -> int:
        """Of the embeddings; 0 where the retriever is not known."""
        return self.retriever.dim if self.retriever else 0

    @property
    def matrix_bytes(self) -> int:
        """Of the embeddings of all passages in half precision."""
        return (self.num_passages or 0) * self.dim * 2

    @property
    def sure_matrix_bytes(self) -> int:
        """The same; 0 where the number of passages is an estimate."""
        return self.matrix_bytes if self.is_counted else 0

    @property
    def is_exact(self) -> bool:
        return self.config.index.factory == EXACT

    @property
    def writes_matrix(self) -> bool:
        """Whether embeddings go through a file in half precision, see `IndexBuilder`."""
        is_large = self.matrix_bytes * 2 > IndexBuilder.largest_in_memory_bytes
        return is_large or (self.is_exact and self.searches_on_gpu)

    @property
    def index_shards(self) -> int:
        """Processes that share the rows of an exact index, see `ShardedIndex`."""
        return num_processes(self.config) if self.is_exact and self.writes_matrix else 1

    @property
    def num_in_part(self) -> int:
        """Passages that validations search; 0 = the whole index."""
        wanted = self.config.index.validation_passages if trains(self.config) else None
        return 0 if wanted is None else min(wanted, self.num_passages or wanted)

    @property
    def has_bm25(self) -> bool:
        measured = self.config.retrieval.bm25_baseline
        if measured is None:
            measured = (self.num_passages or 0) <= MAX_PASSAGES_OF_BASELINE
        return measured or self.config.retrieval.candidates != "index"

    @property
    def unknown(self) -> tuple[str, ...]:
        """What could not be found out, and how to tell it: a sentence each."""
        found = []
        reader, retriever = self.config.reader.name, self.config.retriever.name
        for setting, name, size in (
            ("reader.name", reader, self.reader if self.has_reader else _NO_MODEL),
            ("retriever.name", retriever, self.retriever),
        ):
            if size is None:
                found.append(
                    f"{setting}={name} is not known and not on this machine, so it counts for nothing below: "
                    f"fetch it ({download_command(self.config)}), or set {setting} "
                    "to a folder with its config.json and safetensors"
                )
        if self.num_passages is None:
            found.append(
                f"data.passages={self.config.data.passages} is not here, so its passages count for nothing "
                "below"
            )
        elif not self.is_counted:
            found.append(
                f"the number of passages, {self.num_passages:,}, is an estimate from the file's first lines "
                "until a run has read it"
            )
        return tuple(found)


def download_command(config: ExperimentConfig) -> str:
    """The one that fetches the files and models of a run."""
    return shlex.join(["python", "-m", "experiments.download", "--exp", config.name, *overrides_of(config)])


def describe(config: ExperimentConfig, machine: Machine) -> Setup:
    """What a run is made of; loads nothing, and takes no time to speak of."""
    on_gpu = machine.gpu is not None and config.trainer.accelerator != "cpu"
    if machine.is_here:
        here = hardware(config)
        on_gpu, precision = here["accelerator"] == "gpu", here["precision"]
        on_gpu_search, reader_bytes = searches_on_gpu(config), reader_dtype(config).itemsize
    else:
        if not on_gpu and (config.trainer.accelerator == "gpu" or config.index.gpu):
            raise ConfigError("the run asks for a GPU, and this machine has none; name one with --gpu")
        precision = _precision(config, machine, on_gpu)
        on_gpu_search = would_search_on_gpu(config, on_gpu)
        reader_bytes = _reader_bytes(config, machine, on_gpu)
    num_passages, is_counted = (0, True) if config.evaluation.closed_book else count_passages(config)
    return Setup(
        config=config,
        machine=machine,
        num_passages=num_passages,
        is_counted=is_counted,
        retriever=_NO_MODEL
        if config.evaluation.closed_book
        else retriever_size(config.retriever.name, config.retriever.num_layers),
        reader=reader_size(config.reader.name) if has_reader(config) else None,
        on_gpu=on_gpu,
        precision=precision,
        searches_on_gpu=on_gpu_search,
        reader_bytes=reader_bytes,
    )


# ---- on a machine that is not at hand ----


def _precision(config: ExperimentConfig, machine: Machine, on_gpu: bool) -> str:
    wanted = config.trainer.precision
    if wanted not in ("auto", FAST):
        return wanted
    return "bf16-mixed" if _multiplies_bf16(machine, on_gpu) else "32-true"


def _reader_bytes(config: ExperimentConfig, machine: Machine, on_gpu: bool) -> int:
    wanted = config.reader.dtype
    if wanted == "auto":
        return 2 if _multiplies_bf16(machine, on_gpu) and not trains_reader_weights(config) else 4
    return 4 if wanted == "float32" else 2


def _multiplies_bf16(machine: Machine, on_gpu: bool) -> bool:
    """Of processors it is not known before they are at hand."""
    return on_gpu and machine.gpu is not None and machine.gpu.multiplies_bf16


# ---- passages ----


def count_passages(config: ExperimentConfig) -> tuple[int | None, bool]:
    """How many passages the knowledge base holds, and whether they were counted; None = not known."""
    total, is_counted = count_all_passages(config)
    limit = config.data.max_passages
    return (total if limit is None or total is None else min(total, limit)), is_counted


def count_all_passages(config: ExperimentConfig) -> tuple[int | None, bool]:
    """The same before a slice is taken."""
    if config.data.passages == VITAL:
        return VITAL_PASSAGES, True
    published = passage_set(config.data.passages)
    if published is not None and config.data.verify_sizes:
        return published.num_passages, True
    try:
        file = passage_file(config)
    except ValueError:  # missing, which the run says better
        return None, False
    built = built_knowledge_base(config)
    if built is None:
        return (_estimate_lines(file) if file.is_file() else None), False
    knowledge_base = KnowledgeBase(built)
    try:
        return len(knowledge_base), True
    finally:
        knowledge_base.close()


def built_knowledge_base(config: ExperimentConfig) -> Path | None:
    """The Arrow file that an earlier run has made of the passage file; None = there is none."""
    try:
        built = knowledge_base_path(passage_file(config), cache_folder(config))
    except ValueError:
        return None
    return built if built.is_file() else None


def _estimate_lines(path: Path) -> int:
    """From the first MiB, packed or not."""
    is_packed = path.suffix.lower() == ".gz"
    with path.open("rb") as packed, gzip.open(packed) if is_packed else nullcontext(packed) as text:
        num_lines = text.read(_SAMPLED_BYTES).count(b"\n")
        num_read = max(1, packed.tell())
    return max(1, round(num_lines * path.stat().st_size / num_read))
