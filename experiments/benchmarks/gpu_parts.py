"""The parts of `experiments.benchmarks.gpu`: each yields rows, and may fail without the others."""

import copy
import operator
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from datamodules.batches import Batch
from datamodules.embedding_matrix import EmbeddingMatrix, MatrixShape
from datamodules.matrix_index import MatrixIndex
from datamodules.prompts import Context
from experiments.benchmarks import gpu_run, made_up
from experiments.benchmarks.comparison import seconds_of, wait_for
from experiments.benchmarks.memory import can_measure, peak_bytes
from experiments.benchmarks.packages import OLDEST
from experiments.benchmarks.row import Row
from lightning_modules.encoding import encode_passages
from lightning_modules.metrics.indicators import indicator_units
from lightning_modules.metrics.units import passage_units
from lightning_modules.objectives import ADist
from lightning_modules.readers.base import Reader
from lightning_modules.readers.decoder_only import DecoderOnlyReader
from lightning_modules.retriever import Retriever
from lightning_modules.scores import log_p_retr
from lightning_modules.token_drops import TokenDrops

_BITS = {torch.float32: "fp32", torch.bfloat16: "bf16"}
_TEACHER = "Llama, a prompt a passage"
"""The reader whose attention is distilled."""
_WITHIN_BF16 = 0.06
"""Of the largest number: what bfloat16, with 8 bits of fraction, may make of a few layers."""
_DROPS = {
    "drops in likelihood": TokenDrops.MASKED,
    "drops in likelihood, whole prompt": TokenDrops.MASKED_PROMPT,
}
_LARGE_IN_BF16 = dict.fromkeys([*_DROPS, "indicator 1, attention"], 0.25)
"""Differences of nearly equal numbers, and means over tokens that rounding chooses among."""
_WITHIN_FLOAT32 = 1e-3


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        reader, retriever: of the models whose speed is measured; see `made_up.falcon_rw` and `made_up.bert`.
        num_questions: of each batch, with 5 passages each.
        passage_words: of a passage, from and to; prompts take 128 tokens of them at most.
        searched: passages.
        dim: of the embeddings that are searched.
        product: rows and columns of the matrix product that the chip's rate is measured by.
        seconds: of each measurement of speed.
        run: of the run.
    """

    reader: dict[str, int]
    retriever: dict[str, int]
    num_questions: tuple[int, ...]
    passage_words: tuple[int, int]
    searched: tuple[int, ...]
    dim: int
    product: int
    seconds: float
    run: gpu_run.RunSizes


FULL = Sizes(
    reader={},
    retriever={},
    num_questions=(1, 8, 32),
    passage_words=(64, 150),
    searched=(1_000_000, 5_000_000),
    dim=768,
    product=8192,
    seconds=4.0,
    run=gpu_run.FULL,
)
TINY = Sizes(
    reader={"num_layers": 2, "dim": 32, "num_heads": 4, "vocabulary": made_up.VOCABULARY},
    retriever={
        "num_layers": 2,
        "dim": 32,
        "num_heads": 4,
        "feed_forward": 48,
        "vocabulary": made_up.VOCABULARY,
    },
    num_questions=(1, 2),
    passage_words=(8, 20),
    searched=(1000, 3000),
    dim=32,
    product=64,
    seconds=0.05,
    run=gpu_run.TINY,
)


@dataclass
class Rig:
    """Where and how large; what a part finds out for those after it.

    Attributes:
        device: of the models.
        sizes: of everything.
        product_flops: operations a second of a matrix product in bfloat16; None until it was measured.
    """

    device: torch.device
    sizes: Sizes
    product_flops: float | None = None

    def free(self) -> None:
        """Lets go of what a part has left on the device."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def median_s(self, work: Callable[[], object]) -> float:
        """Seconds of a work, repeated for a while, at least three times after one that is not counted."""
        work()
        took: list[float] = []
        while len(took) < 3 or sum(took) < self.sizes.seconds:
            took.append(seconds_of(work, self.device))
        return statistics.median(took)

    def share(self, flops: float, seconds: float) -> str:
        """Of the chip's rate, in words; nothing where that was not measured."""
        return (
            "" if self.product_flops is None else f", {flops / seconds / self.product_flops:.0%} of its rate"
        )


# ---- the machine ----


def environment(rig: Rig) -> Iterator[Row]:
    """Card, driver, packages, and the rate that everything else is a share of."""
    yield Row("python", platform.python_version())
    for name in OLDEST:
        yield Row(name, metadata.version(name))
    yield Row(
        "CPU cores", float(len(os.sched_getaffinity(0))) if sys.platform == "linux" else platform.machine()
    )
    if rig.device.type == "cuda":
        yield Row("card", torch.cuda.get_device_name(rig.device))
        yield Row("memory", torch.cuda.get_device_properties(rig.device).total_memory / 1e9, "GB")
        yield Row("CUDA of torch", str(torch.version.cuda))
        yield Row("driver", _driver())
    size = rig.sizes.product
    one, other = (torch.randn(size, size, device=rig.device, dtype=torch.bfloat16) for _ in range(2))
    rig.product_flops = 2 * size**3 / rig.median_s(lambda: one @ other)
    yield Row(f"product of two {size:,} x {size:,} matrices, bf16", rig.product_flops / 1e12, "TFLOP/s")


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "not known: there is no nvidia-smi"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return ended.stdout.splitlines()[0] if ended.stdout else "not known: nvidia-smi failed"


# ---- the same numbers as on the CPU ----


def correctness(rig: Rig) -> Iterator[Row]:
    """Small models: everything that a step and an evaluation compute, in bf16 and fp32 on the device.

    Passages, questions and answers are of unequal lengths, so that padding and masks count.

    Raises:
        ValueError: at the end, where a number is further from the CPU's in fp32 than its precision explains,
            or an answer in fp32 is another.
    """
    off: list[str] = []
    batch = made_up.made_up_batch(3, 3, passage_words=(8, 40), answer_words=(1, 5), question_words=(4, 12))
    for name, reader in _small_readers().items():
        wanted, answers = _numbers_of(reader, batch), _answers(reader, batch)
        for dtype, bits in _BITS.items():
            moved = copy.deepcopy(reader).to(rig.device, dtype)
            what = f"{name}, {bits}"
            yield _largest_difference(what, _numbers_of(moved, batch), wanted, dtype, off)
            num_same = sum(map(operator.eq, _answers(moved, batch), answers))
            yield Row(f"{what}: answers as on the CPU", f"{num_same} of {len(answers)}")
            if dtype is torch.float32 and num_same < len(answers):
                off.append(f"{len(answers) - num_same} of {len(answers)} answers of {what} are others")
    wanted = _numbers_of_step(torch.device("cpu"), torch.float32, batch)
    for dtype, bits in _BITS.items():
        found = _numbers_of_step(rig.device, dtype, batch)
        yield _largest_difference(f"distillation step, {bits}", found, wanted, dtype, off)
    if off:
        raise ValueError(f"numbers are off: {'; '.join(off)}")


def _largest_difference(
    name: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], dtype: torch.dtype, off: list[str]
) -> Row:
    """Of the number that is furthest off, by what it may be; adds to `off` those that are too far."""
    differs = {what: _difference(values, wanted[what]) for what, values in found.items()}
    for what, value in differs.items():
        if not value <= _allowed(what, dtype):
            off.append(f"{what} of {name} by {value:.2g}, {_allowed(what, dtype):g} allowed")
    worst = max(differs, key=lambda what: differs[what] / _allowed(what, dtype))
    return Row(f"{name}: largest difference, of {worst}", differs[worst])


def _allowed(what: str, dtype: torch.dtype) -> float:
    """Share of the largest number that a difference may be."""
    if dtype is torch.float32:
        return _WITHIN_FLOAT32
    return _LARGE_IN_BF16.get(what, _WITHIN_BF16)


def _small_readers() -> dict[str, Reader]:
    """Of each kind, on the CPU in float32."""
    device, dtype, vocabulary = torch.device("cpu"), torch.float32, made_up.VOCABULARY
    falcon = _spread(made_up.falcon_rw(device, dtype, 2, dim=64, num_heads=4, vocabulary=vocabulary))
    llama = made_up.smollm2(device, dtype, 2, 64, 4, num_kv_heads=2, feed_forward=96, vocabulary=vocabulary)
    t5 = _spread(
        made_up.t5_small(device, dtype, 2, dim=64, num_heads=4, feed_forward=96, vocabulary=vocabulary)
    )
    return {
        "falcon-rw, one prompt": made_up.decoder_only(falcon, Context.CONCATENATED),
        _TEACHER: made_up.decoder_only(_spread(llama), Context.INDEPENDENT),
        "T5, Fusion-in-Decoder": made_up.fusion_in_decoder(t5),
    }


def _spread(model: PreTrainedModel) -> PreTrainedModel:
    """Larger weights: with those that models begin with attention is as good as uniform."""
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.data.normal_(std=0.1, generator=generator)
    return model


@torch.no_grad()
def _numbers_of(reader: Reader, batch: Batch) -> dict[str, Tensor]:
    """What training and evaluation take from a reader."""
    output = reader.read_answer(batch)
    units = passage_units(output, reader)
    shape = (len(batch), batch.num_passages)
    uniform = torch.zeros(shape, device=reader.device).log_softmax(dim=-1)
    p_attn = ADist(attention_temperature=0.2).log_p_target(output, uniform).exp()
    indicator = indicator_units(units.attention, units.answer_similarity, units.mask, 50)
    found = {
        "token scores": output.token_scores,
        "log-likelihoods": output.label_log_probs,
        "p_ATTN": p_attn,
        "similarities": units.answer_similarity.masked_fill(~units.mask, 0.0),
        "indicator 1, attention": indicator.attention,
    }
    if reader.gives_signals:
        found["token scores of the question"] = reader.read_signals(batch).question_scores
    for name, how in _DROPS.items():
        found[name] = reader.read_drops(batch, how).token_scores.nan_to_num(0.0)
    return {name: values.float().cpu() for name, values in found.items()}


def _difference(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def _answers(reader: Reader, batch: Batch) -> list[str]:
    uniform = torch.zeros(len(batch), batch.num_passages, device=reader.device).log_softmax(dim=-1)
    return reader.generate(batch, uniform, max_new_tokens=4)


def _numbers_of_step(device: torch.device, dtype: torch.dtype, batch: Batch) -> dict[str, Tensor]:
    """What a distillation step comes to: in bf16 the reader's weights are, and the retriever is autocast."""
    reader = _small_readers()[_TEACHER].to(device, dtype)
    encoder = _spread(made_up.bert(torch.device("cpu"), torch.float32, **TINY.retriever))
    retriever = made_up.retriever(encoder).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype is torch.bfloat16):
        loss, log_p = _loss(reader, retriever, batch)
    loss.backward()
    gradients = [weight.grad.flatten() for weight in retriever.parameters() if weight.grad is not None]
    found = {"p_RETR": log_p.exp(), "loss": loss, "gradient": torch.cat(gradients)}
    return {name: values.detach().float().cpu() for name, values in found.items()}


# ---- speed ----


def speed(rig: Rig) -> Iterator[Row]:
    """Tokens a second of a reading pass, of a whole distillation step, and of encoding passages.

    Padding is no token. Shares of the chip's rate are of full prompts, in which there is none.
    """
    reader = made_up.decoder_only(made_up.falcon_rw(rig.device, torch.bfloat16, **rig.sizes.reader))
    retriever = made_up.retriever(made_up.bert(rig.device, torch.float32, **rig.sizes.retriever))
    optimizer = torch.optim.AdamW(retriever.parameters(), lr=1e-5)
    shortest, longest = rig.sizes.passage_words
    for number in rig.sizes.num_questions:
        batch = made_up.made_up_batch(
            number, 5, (shortest, longest), answer_words=(1, 12), question_words=(5, 15)
        )
        yield from _speed_of_batch(rig, reader, retriever, optimizer, batch)
    full = made_up.made_up_batch(rig.sizes.num_questions[1], passage_words=longest)
    yield from _speed_of_batch(rig, reader, retriever, optimizer, full)
    yield from _speed_of_encoding(rig, retriever)


def _speed_of_batch(
    rig: Rig,
    reader: DecoderOnlyReader,
    retriever: Retriever,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
) -> Iterator[Row]:
    prompts = reader.prompts.build(batch).to(rig.device)
    mask, is_full = prompts.attention_mask, bool(prompts.attention_mask.all())
    what = f"{len(batch)} question{'s' if len(batch) > 1 else ''}, {'full' if is_full else 'padded'}"
    seconds = rig.median_s(lambda: reader.prompts.build(batch).to(rig.device))
    yield Row(f"prompts built, {what}", 1000 * seconds, "ms")
    read_tokens, read_flops = int(mask.sum()), _forward_flops(reader.model, mask)
    with torch.no_grad():
        seconds = rig.median_s(partial(reader.read_prompts, prompts))
    share = rig.share(read_flops, seconds) if is_full else ""
    yield Row(f"read, {what}{share}", read_tokens / seconds, "tokens/s")
    tokens, flops = _encoding_of(retriever, batch)
    seconds = rig.median_s(partial(_step, reader, retriever, optimizer, batch))
    share = rig.share(read_flops + 3 * flops, seconds) if is_full else ""
    yield Row(f"read and train, {what}{share}", (read_tokens + tokens) / seconds, "tokens/s")


def _step(reader: Reader, retriever: Retriever, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    """Prompts, read, encode with gradient, KL, backward, optimizer, in mixed precision."""
    with torch.autocast(reader.device.type, torch.bfloat16):
        loss, _ = _loss(reader, retriever, batch)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _loss(reader: Reader, retriever: Retriever, batch: Batch) -> tuple[Tensor, Tensor]:
    """The KL divergence that the retriever learns from, and log p_RETR."""
    objective = ADist(attention_temperature=0.2)
    with torch.no_grad():
        output = reader.read_attention(batch)
    queries = retriever.encode_queries(made_up.texts_of(batch.questions))
    flat = retriever.encode_passages([passage for found in batch.passages for passage in found])
    log_p = log_p_retr(queries, flat.view(len(batch), batch.num_passages, -1), 0.05)
    return objective.loss(objective.log_p_target(output, log_p), log_p, output), log_p


def _speed_of_encoding(rig: Rig, retriever: Retriever) -> Iterator[Row]:
    is_tiny = rig.sizes is TINY
    passages = made_up.made_up_passages(20 if is_tiny else 8192, 20 if is_tiny else 100)
    tokens = retriever.tokenize_passages(passages)["attention_mask"]
    flops = _forward_flops(retriever.passage_encoder, tokens, is_causal=False)

    def encode() -> None:
        with torch.autocast(rig.device.type, torch.bfloat16):
            encode_passages(retriever, passages, batch_size=512)

    seconds = rig.median_s(encode)
    share = rig.share(flops, seconds)
    yield Row(
        f"encode passages of {int(tokens.sum()) / len(passages):.0f} tokens{share}",
        len(passages) / seconds,
        "passages/s",
    )


def _encoding_of(retriever: Retriever, batch: Batch) -> tuple[int, float]:
    """Tokens of the passages of a step, and the operations of their forward pass."""
    passages = [passage for found in batch.passages for passage in found]
    mask = retriever.tokenize_passages(passages)["attention_mask"]
    return int(mask.sum()), _forward_flops(retriever.passage_encoder, mask, is_causal=False)


def _forward_flops(model: Any, mask: Tensor, is_causal: bool = True) -> float:
    """Two operations a weight and token, embeddings left out, and those of the attention."""
    embeddings = {id(weight) for weight in model.get_input_embeddings().parameters()}
    base = getattr(model, "base_model", model)
    weights = sum(weight.numel() for weight in base.parameters() if id(weight) not in embeddings)
    lengths = mask.sum(dim=1).double()
    products = 4 * model.config.num_hidden_layers * model.config.hidden_size * float((lengths**2).sum())
    return 2 * weights * float(lengths.sum()) + products / (2 if is_causal else 1)


# ---- memory ----


def memory(rig: Rig) -> Iterator[Row]:
    """At its worst moment beyond the weights: a reading pass, the same unwatched, and on eager attention."""
    if not can_measure(rig.device):
        yield Row("peak memory", "cannot be measured on this system")
        return
    model = made_up.falcon_rw(rig.device, torch.bfloat16, **rig.sizes.reader)
    reader = made_up.decoder_only(model, Context.CONCATENATED)
    batch = made_up.made_up_batch(rig.sizes.num_questions[1], passage_words=rig.sizes.passage_words[1])
    prompts = reader.prompts.build(batch).to(rig.device)
    inputs = {
        "input_ids": prompts.input_ids,
        "attention_mask": prompts.attention_mask.long(),
        "use_cache": False,
    }
    what = f"{len(batch)} prompts of {prompts.input_ids.shape[1]:,} tokens"

    def eager() -> None:
        # Falcon leaves scaled_dot_product_attention where it is asked for the matrices
        model.base_model(**inputs, output_attentions=True)

    works: dict[str, Callable[[], object]] = {
        "the pass alone": lambda: model.base_model(**inputs),
        "read": partial(reader.read_prompts, prompts),
        "eager attention": eager,
    }
    with torch.no_grad():
        for name, work in works.items():
            yield Row(f"{name}, {what}: peak beyond the weights", peak_bytes(work, rig.device) / 1e9, "GB")


# ---- search ----


class MadeUpMatrix(EmbeddingMatrix):
    """Embeddings that are in no file: one block of random rows again and again, each time shifted.

    Args:
        shape: of the matrix.
        device: where the random numbers are drawn.
    """

    def __init__(self, shape: MatrixShape, device: torch.device) -> None:
        super().__init__(Path(), shape)
        generator = torch.Generator(device).manual_seed(0)
        size = (shape.rows_a_chunk, shape.dim)
        self._block = torch.randn(size, generator=generator, device=device, dtype=torch.float16)

    def blocks(self, chunks: range | None = None) -> Iterator[tuple[range, np.ndarray]]:
        of_matrix = self.shape.chunks
        for chunk in range(len(of_matrix)) if chunks is None else chunks:
            rows = of_matrix[chunk]
            shifted = self._block.roll(chunk % self.shape.dim, dims=1)
            yield rows, shifted[: len(rows)].cpu().numpy()


def search(rig: Rig) -> Iterator[Row]:
    """Exact search on the device, of 64 questions at once and of one, beside a product and topk of torch."""
    for count in rig.sizes.searched:
        yield from _search_in(count, rig)
        rig.free()


def _search_in(count: int, rig: Rig) -> Iterator[Row]:
    # more rows at a time than a real matrix has, since they come from no file
    shape = MatrixShape("made up", count, rig.sizes.dim, rows_a_chunk=min(count, 65_536))
    started = time.perf_counter()
    index = MatrixIndex(MadeUpMatrix(shape, rig.device), rig.device)
    wait_for(rig.device)
    what = f"{count:,} x {rig.sizes.dim} fp16"
    yield Row(f"{what}: onto the device", time.perf_counter() - started, "s")
    queries = np.random.default_rng(0).standard_normal((64, rig.sizes.dim), dtype=np.float32)
    for asked, words in ((queries, "64 questions"), (queries[:1], "1 question")):
        seconds = rig.median_s(partial(index.search, asked, 20))
        yield Row(f"{what}: search for {words}", 1000 * seconds, "ms")
    blocks = [torch.from_numpy(block.copy()).to(rig.device) for _, block in index.matrix.blocks()]
    matrix, halves = torch.cat(blocks), torch.from_numpy(queries).to(rig.device, torch.float16)
    del blocks
    seconds = rig.median_s(lambda: (halves @ matrix.T).topk(20))
    yield Row(f"{what}: product in fp16 and topk, 64 questions", 1000 * seconds, "ms")
    by_faiss = _knn_gpu(halves, matrix)
    if by_faiss is not None:
        yield Row(f"{what}: FAISS's knn_gpu, 64 questions", 1000 * rig.median_s(by_faiss), "ms")
    wanted = (halves @ matrix.T).topk(5).indices.cpu().numpy()
    _, found = index.search(queries, 5)
    same = np.mean([np.isin(one, other).mean() for one, other in zip(found, wanted, strict=True)])
    yield Row(f"{what}: of the first 5 the same as those", float(same))
    if same < 0.95:
        raise ValueError(f"the index finds other passages than torch: {same:.2f} of the first 5 the same")


def _knn_gpu(queries: Tensor, matrix: Tensor) -> Callable[[], object] | None:
    """FAISS's own exact search of 20 in a matrix on the GPU; None without a GPU, or a FAISS that uses it."""
    try:
        import faiss
    except ImportError:
        return None
    if matrix.device.type != "cuda" or not hasattr(faiss, "StandardGpuResources"):
        return None
    import faiss.contrib.torch_utils  # knn_gpu takes tensors from now on

    resources = faiss.StandardGpuResources()
    return lambda: faiss.knn_gpu(resources, queries, matrix, 20, metric=faiss.METRIC_INNER_PRODUCT)


# ---- everything together ----


def run(rig: Rig) -> Iterator[Row]:
    """A training run with refreshes, indicators and the stopping rule."""
    with TemporaryDirectory() as folder:
        yield from gpu_run.train(rig.device, rig.sizes.run, Path(folder))
