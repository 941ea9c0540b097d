"""How many bytes a run takes: on the disk, in the host's memory, and on each GPU."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datamodules.choices import Choice
from datamodules.hub_models import find_model
from datamodules.matrix_index import ROWS_ON_DEVICE
from datamodules.sources import passage_set
from datamodules.vital import VITAL
from experiments.build import cache_folder
from experiments.data_files import passage_file
from experiments.models import hub_models, model_name
from experiments.planning.setup import Setup, built_knowledge_base, count_all_passages
from experiments.planning.work import indices_of_run
from experiments.processes import num_processes

MOMENTS = 2
"""That AdamW keeps of each weight, beside its gradient."""
_PROCESS = {"gpu": 5_000_000_000, "cpu": 1_500_000_000}
"""Python with torch, on the host; of a run on a GPU with CUDA's libraries and the buffers of copies."""
_WEIGHT_IN_FILE = 4
_SURE_PROCESS = 300_000_000
_CUDA = 1_000_000_000
"""CUDA's own, and the workspaces of matrix products."""
_SLACK = 0.05
"""Of all that is asked for, what the allocator of a GPU holds beside it."""
_ACTIVATION_BYTES = {2: 40, 4: 68}
"""Kept of each layer for each token and hidden unit until the backward pass, by bytes of a number."""
_PASSAGE_BYTES = 680
"""Of 100 words with title and id, in the Arrow file of a knowledge base."""
_SURE_PASSAGE_BYTES = 500
_PACKED_PASSAGE_BYTES = 224
"""Of such a passage in the published file, which is packed."""
_BM25_PASSAGE_BYTES = 1000
_TRAINING_ROWS_OF_FACTORY = 1_000_000
_PART = "part that validations search"


class Resource(Choice):
    """What can be too small."""

    DISK = "disk"
    MEMORY = "memory"
    GPU = "gpu"


@dataclass(frozen=True)
class Part:
    """Bytes of one thing.

    Attributes:
        name: for people.
        about: what is expected.
        at_least: what is sure.
    """

    name: str
    about: float
    at_least: float = 0


@dataclass(frozen=True)
class Demand:
    """What a run takes of a resource.

    Attributes:
        resource: which.
        parts: that are there at the same time, at the worst moment.
    """

    resource: Resource
    parts: tuple[Part, ...]

    @property
    def about(self) -> float:
        """Bytes that are expected."""
        return sum(part.about for part in self.parts)

    @property
    def at_least(self) -> float:
        """Bytes that are sure."""
        return sum(part.at_least for part in self.parts)


def demands_of(setup: Setup) -> tuple[Demand, ...]:
    """What a run takes of each resource; of the GPU only where it uses one."""
    demands = [disk_demand(setup), memory_demand(setup)]
    return (*demands, gpu_demand(setup)) if setup.on_gpu else tuple(demands)


# ---- disk ----


def disk_demand(setup: Setup) -> Demand:
    """What a run adds to the disk where runs, data and models are kept; what is there already counts not."""
    parts = [
        *_downloads(setup),
        _knowledge_base(setup),
        *_indices(setup),
        _checkpoints(setup),
        _kept_outputs(setup),
    ]
    return Demand(Resource.DISK, tuple(part for part in parts if part.about))


def _downloads(setup: Setup) -> list[Part]:
    """Other disks may hold them, so nothing of it is sure."""
    config = setup.config
    published = passage_set(config.data.passages)
    found = []
    if published is not None and not _is_there(lambda: passage_file(config)):
        found.append(Part("passage file, downloaded", published.num_passages * _PACKED_PASSAGE_BYTES))
    sizes = {"reader": setup.reader, "retriever": setup.retriever}
    missing = [
        size.parameters * _WEIGHT_IN_FILE
        for what in hub_models(config)
        if (size := sizes[what]) is not None and find_model(model_name(config, what)) is None
    ]
    return [*found, Part("models, downloaded", sum(missing))]


def _is_there(path: Callable[[], Path]) -> bool:
    try:
        return path().exists()
    except ValueError:
        return False


def _knowledge_base(setup: Setup) -> Part:
    """Of all passages, where no run has made it yet, and of a slice of them beside it."""
    data = setup.config.data
    total, is_counted = count_all_passages(setup.config)
    if data.passages == VITAL or built_knowledge_base(setup.config):
        total = 0
    num_sliced = 0 if data.max_passages is None else setup.num_passages or 0
    is_published = passage_set(data.passages) is not None and is_counted
    return Part(
        "knowledge base",
        ((total or 0) + num_sliced) * _PASSAGE_BYTES,
        (total or 0) * _SURE_PASSAGE_BYTES if is_published else 0,
    )


def _indices(setup: Setup) -> list[Part]:
    size, sure = index_bytes(setup), sure_index_bytes(setup)
    num_own = indices_of_run(setup)
    has_start = setup.writes_matrix and setup.is_exact and _has_matrix(setup)
    of_start = 0.0 if has_start else size
    parts = [
        # a small one may be there
        Part("index of the start, for all runs", of_start, min(of_start, sure) * setup.writes_matrix),
        Part(f"indices of the run, up to {num_own}", num_own * size, num_own * sure),
    ]
    if setup.writes_matrix and not setup.is_exact:
        parts.append(Part("embeddings, while an index is made", setup.matrix_bytes, setup.sure_matrix_bytes))
    return parts


def _has_matrix(setup: Setup) -> bool:
    """Whether some run has left, or begun, embeddings of as many bytes: maybe those of this start."""
    folder = cache_folder(setup.config) / "index"
    return any(path.stat().st_size == setup.matrix_bytes for path in folder.glob("*/embeddings.f16"))


def index_bytes(setup: Setup) -> float:
    """Of one index, in its file or where it is searched."""
    if setup.is_exact:
        return setup.matrix_bytes if setup.writes_matrix else setup.matrix_bytes * 2
    return (setup.num_passages or 0) * _bytes_a_row(setup.config.index.factory, setup.dim)


def sure_index_bytes(setup: Setup) -> float:
    """The same as far as it is sure."""
    return index_bytes(setup) if setup.is_exact and setup.is_counted else 0


def _bytes_a_row(factory: str, dim: int) -> float:
    """Of a factory string, with the passage's number; of what is not known as much as of the vector."""
    for pattern, of_code in (
        (r"PQ(\d+)x(\d+)", lambda found: int(found[1]) * int(found[2]) / 8),
        (r"PQ(\d+)", lambda found: float(found[1])),
        (r"SQ(\d+)", lambda found: dim * int(found[1]) / 8),
        (r"SQfp16", lambda found: dim * 2.0),
    ):
        found = re.search(pattern, factory)
        if found:
            return of_code(found) + 8
    return dim * 4 + 8


def _checkpoints(setup: Setup) -> Part:
    trained, weight = setup.trained_parameters, setup.weight_bytes
    whole = trained * weight * (1 + MOMENTS)
    encoder = setup.retriever.parameters if setup.retriever and setup.trains_passage_encoder else 0
    # the last one while it is replaced, and the one before; the best ones that these know of, and the last
    # good one; what is exported; the encoders of the indices that the checkpoints were trained with
    kept = 3 * whole + 5 * trained * weight + 3 * encoder * weight
    return Part("checkpoints and trained models", kept, whole * _saves(setup))


def _saves(setup: Setup) -> bool:
    """Whether a run comes to its first checkpoint."""
    return setup.config.trainer.max_steps >= setup.config.trainer.checkpoint_every_steps


def _kept_outputs(setup: Setup) -> Part:
    """What is kept of a frozen reader, of each pair of question and passage."""
    name = "outputs of the frozen reader"
    if not setup.keeps_outputs:
        return Part(name, 0)
    settings, config = setup.config.reader, setup.config
    # float32: a row of attention for each answer token, one for the question, and the likelihoods
    a_pair = 4 * settings.max_tokens_per_passage * 10
    num_questions = config.trainer.max_steps * config.trainer.accumulate * config.data.batch_size
    num_pairs = (num_questions + 2000) * config.training.num_passages
    return Part(name, min(settings.read_once_gb * 2**30, num_pairs * a_pair))


# ---- memory of the host ----


def memory_demand(setup: Setup) -> Demand:
    """What the processes of a run have in the host's memory, without pages of files."""
    processes = setup.config.trainer.devices
    where = "gpu" if setup.on_gpu else "cpu"
    parts = [
        Part("Python and its libraries", _PROCESS[where], _SURE_PROCESS),
        _models_on_host(setup) if setup.on_gpu else _models_of_cpu(setup),
        *([] if setup.on_gpu else [Part("activations", _workspace(setup))]),
        *_index_on_host(setup),
        Part(_PART, _part_bytes(setup) * (2.5 if num_processes(setup.config) > 1 else 1)),
        Part("BM25, while it is built", _BM25_PASSAGE_BYTES * (setup.num_passages or 0) * setup.has_bm25),
    ]
    return Demand(
        Resource.MEMORY,
        tuple(
            Part(part.name, processes * part.about, processes * part.at_least) for part in parts if part.about
        ),
    )


def _part_bytes(setup: Setup) -> int:
    return setup.num_in_part * setup.dim * 2


def _models_of_cpu(setup: Setup) -> Part:
    """Of a run without GPU; frozen weights may be pages of their files, which is not sure memory."""
    models = _models(setup)
    return Part(models.name, models.about, models.at_least - setup.frozen_bytes)


def _models_on_host(setup: Setup) -> Part:
    """Of a run on a GPU: while they are loaded, while a checkpoint is written, and at the end of training."""
    trained = setup.trained_parameters * setup.weight_bytes
    loaded = setup.frozen_bytes + trained
    checkpoint = trained * (1 + MOMENTS)
    # at the end weights and moments come back, and the best weights beside them
    at_the_end = setup.frozen_bytes + checkpoint + trained
    return Part("models, loaded and saved", max(loaded, at_the_end), checkpoint * _saves(setup))


def _index_on_host(setup: Setup) -> list[Part]:
    if setup.writes_matrix and setup.is_exact:
        return [Part("blocks of the embeddings file", 300_000_000)]
    size = 0.0 if setup.searches_on_gpu else index_bytes(setup)
    if setup.writes_matrix:
        rows = min(_TRAINING_ROWS_OF_FACTORY, setup.num_passages or 0)
        return [
            Part("index", size),
            Part("embeddings that the index is trained on", rows * setup.dim * 4),
        ]
    # the embeddings beside the index that is made of them
    return [Part("index, while it is made", size + setup.matrix_bytes * 2, sure_index_bytes(setup))]


# ---- GPU ----


def gpu_demand(setup: Setup) -> Demand:
    """What is in the memory of each GPU at the worst moment of training."""
    share = setup.searches_on_gpu / setup.index_shards
    parts = [
        _models_of_gpu(setup),
        Part("index", index_bytes(setup) * share, sure_index_bytes(setup) * share),
        # the processes' shares are gathered there before each has all of it
        Part(_PART, _part_bytes(setup) * (setup.searches_on_gpu + (num_processes(setup.config) > 1))),
        Part("activations and workspace", _workspace(setup)),
    ]
    own = _CUDA + _SLACK * sum(part.about for part in parts)
    parts.append(Part("CUDA and its allocator", own))
    return Demand(Resource.GPU, tuple(part for part in parts if part.about))


def _models(setup: Setup) -> Part:
    """Weights, and of what is trained a gradient and two moments for each of them."""
    trained = setup.trained_parameters * setup.weight_bytes * (2 + MOMENTS)
    return Part("models, gradients and moments", setup.frozen_bytes + trained, setup.frozen_bytes + trained)


def _models_of_gpu(setup: Setup) -> Part:
    """A reader that is sharded lies on all GPUs together."""
    models, elsewhere = _models(setup), setup.frozen_bytes_of_reader * (1 - 1 / setup.reader_shards)
    return Part(models.name, models.about - elsewhere, models.at_least - elsewhere)


def _workspace(setup: Setup) -> float:
    """The most that one of these takes: a training step, an update, reading, encoding, searching."""
    width = 4 if setup.precision == "32-true" else 2
    moments = [
        _training_activations(setup, width),
        setup.trained_parameters * setup.weight_bytes,  # AdamW's, of the square roots of its moments
        _reading(setup, width),
        _encoding(setup),
    ]
    if setup.searches_on_gpu:
        moments.append(ROWS_ON_DEVICE * setup.dim * 4 * 1.1)  # a block in single precision, with its scores
    return max(moments)


def _training_activations(setup: Setup, width: int) -> float:
    config, kept = setup.config, 0.0
    num_passages = config.training.num_passages
    if setup.reader is not None and setup.trains_reader:
        tokens = config.data.batch_size * num_passages * config.reader.max_tokens_per_passage
        in_layer = tokens * setup.reader.dim * _ACTIVATION_BYTES[width]
        if config.reader.gradient_checkpointing:  # what goes into each layer, and one layer
            kept += in_layer + tokens * setup.reader.num_layers * setup.reader.dim * width
        else:
            kept += in_layer * setup.reader.num_layers
    if setup.retriever is not None and setup.trains_retriever:
        texts = config.data.batch_size * num_passages
        at_once = config.retriever.num_at_once
        texts = texts if at_once is None else min(texts, at_once)
        tokens = texts * config.retriever.max_passage_tokens
        kept += tokens * setup.retriever.num_layers * setup.retriever.dim * _ACTIVATION_BYTES[width]
    # casts of trained weights are kept for the step
    return kept + (2 * setup.trained_parameters if setup.precision in ("bf16-mixed", "16-mixed") else 0)


def _reading(setup: Setup, width: int) -> float:
    """Of a pass without gradient, with the keys and values that answers are generated from."""
    if setup.reader is None:
        return 0
    config = setup.config
    tokens = (
        config.data.evaluation_batch_size
        * config.training.num_passages
        * (config.reader.max_tokens_per_passage + config.reader.max_new_tokens)
    )
    return tokens * setup.reader.dim * (20 * width + 2 * setup.reader.num_layers * width)


def _encoding(setup: Setup) -> float:
    if setup.retriever is None:
        return 0
    tokens = setup.config.index.batch_size * setup.config.retriever.max_passage_tokens
    return tokens * setup.retriever.dim * 12 * 4
