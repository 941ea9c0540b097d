"""How long things take, from the arithmetic of the models: floating-point operations, and bytes moved."""

from typing import assert_never

from experiments.planning.machines import GPU, Machine
from experiments.planning.model_sizes import ModelSize
from experiments.planning.setup import Setup
from experiments.planning.times import Rates
from lightning_modules.objectives import OBJECTIVES
from lightning_modules.objectives.base import Cost, LikelihoodObjective
from lightning_modules.token_drops import TokenDrops

PASSAGE_TOKENS = 140
"""Of 100 words with their title, in the retriever's."""
QUERY_TOKENS = 16
_AROUND_PASSAGE_TOKENS = 40
"""Of the question and the template, in a prompt with one passage."""
_CORE = GPU("a core", 0, bf16_tflops=0.04, fp32_tflops=0.04, bandwidth_gb_s=5)
"""Of a CPU."""
_FILE_GB_S = 0.63
"""Read, and made single precision, of an embeddings file that is searched on the CPU and does not fit into
memory: measured (docs/scale.md)."""
_STEP_S = 0.04
"""Starting the kernels of a step, beside what they take."""
_PASS_S = 0.015
"""The same for a pass without gradient, or a token that is generated."""
_QUESTION_S = 0.005
"""Looking for answers in the passages of a question, and measuring."""
_APPROXIMATE_SEARCH_S = 0.01
_LOAD_S = 60.0
_BYTES_OF_UPDATE = 36
"""Moved for each weight that is trained: weight, gradient and moments, read and written; clipping."""


def estimate_rates(setup: Setup) -> Rates:
    """What things take on the machine of a setup, where kernels reach what is usual there."""
    speed = _Speed.of(setup)
    teacher = 0.0 if setup.reader is None else _pass_flops(setup, setup.reader) * _passes_of_teacher(setup)
    teacher_s = 0.0 if setup.reader is None else speed.seconds(teacher) + _PASS_S
    per_step = setup.config.data.batch_size * setup.config.trainer.accumulate
    encoded = setup.config.training.num_passages * PASSAGE_TOKENS + QUERY_TOKENS
    in_step = 3 * _encoder_flops(setup, encoded) * setup.trains_retriever
    if setup.reader is not None and setup.trains_reader:
        num_passes = 4 if setup.config.reader.gradient_checkpointing else 3
        in_step += num_passes * _pass_flops(setup, setup.reader)
    update = speed.moved(setup.trained_parameters * _BYTES_OF_UPDATE)
    return Rates(
        load=_LOAD_S,
        passage=speed.seconds(_encoder_flops(setup, PASSAGE_TOKENS)),
        search=_search(setup, speed),
        search_part=_search_in_memory(setup, speed, setup.num_in_part),
        step=speed.seconds(per_step * in_step) + update + _STEP_S,
        taught=teacher_s if setup.needs_teacher else 0.0,
        found=_QUESTION_S + speed.seconds(_encoder_flops(setup, QUERY_TOKENS)),
        read=_read(setup, speed),
        answered=_answer(setup, speed),
    )


class _Speed:
    """Operations and bytes a second, of one device in the run's precision."""

    def __init__(self, flops: float, bytes_s: float) -> None:
        self._flops, self._bytes_s = flops, bytes_s

    @classmethod
    def of(cls, setup: Setup) -> "_Speed":
        machine, in_single = setup.machine, setup.precision.startswith(("32", "64"))
        kind, count = _device(setup.on_gpu, machine)
        tflops = kind.fp32_tflops if in_single else kind.bf16_tflops
        return cls(tflops * 1e12 * count, kind.bandwidth_gb_s * 1e9 * count)

    def seconds(self, operations: float) -> float:
        return operations / self._flops

    def moved(self, num_bytes: float) -> float:
        return num_bytes / self._bytes_s


def _device(on_gpu: bool, machine: Machine) -> tuple[GPU, int]:
    if on_gpu and machine.gpu is not None:
        return machine.gpu, 1
    return _CORE, machine.cores


# ---- operations ----


def _encoder_flops(setup: Setup, tokens: int) -> float:
    return 0.0 if setup.retriever is None else _layer_flops(setup.retriever, tokens, PASSAGE_TOKENS)


def _layer_flops(size: ModelSize, tokens: int, length: int) -> float:
    """Of a pass through the layers: weights, and attention over `length` tokens."""
    return tokens * (2.0 * size.in_layers + 4.0 * size.num_layers * size.dim * length)


def _pass_flops(setup: Setup, size: ModelSize, num_passages: int | None = None) -> float:
    """Of the pass over one question with its passages and answer."""
    settings = setup.config.reader
    count = setup.config.training.num_passages if num_passages is None else num_passages
    read, answer = settings.max_tokens_per_passage, settings.max_new_tokens // 2
    output = 2.0 * answer * size.dim * size.vocabulary
    if setup.is_fusion:
        # the decoder makes keys and values of all that the encoder gives
        crossed = 4.0 * size.num_layers * size.dim**2 * count * read
        return _layer_flops(size, count * read, read) + crossed + 2.0 * answer * size.in_decoder + output
    if setup.reads_alone or count == 1:
        return count * (_layer_flops(size, read + answer, read) + output)
    return _layer_flops(size, count * read + answer, count * read) + output


def _passes_of_teacher(setup: Setup) -> float:
    """How many passes over the prompts an objective makes."""
    objective, num_passages = OBJECTIVES[setup.config.objective.name], setup.config.training.num_passages
    match objective.cost:
        case Cost.BACKWARD:
            return 3.0
        case Cost.EACH_LEFT_OUT:
            return float(num_passages)
        case Cost.EACH_ALONE | Cost.NOTHING:
            return 1.0


def _passes_of_drops(setup: Setup) -> int:
    """How many passes over a prompt find its tokens' drops in likelihood."""
    tokens = setup.config.reader.max_tokens_per_passage
    how = TokenDrops(setup.config.evaluation.token_drops)
    match how:
        case TokenDrops.GRADIENT:
            return 3
        case TokenDrops.MASKED_PROMPT:
            return tokens
        case TokenDrops.MASKED:
            return max(1, tokens - _AROUND_PASSAGE_TOKENS)
        case _:
            assert_never(how)


# ---- seconds ----


def _search(setup: Setup, speed: _Speed) -> float:
    num_passages = setup.num_passages or 0
    if not setup.is_exact:
        return _APPROXIMATE_SEARCH_S
    if setup.writes_matrix and not setup.searches_on_gpu:
        return num_passages * setup.dim * 2 / (_FILE_GB_S * 1e9)
    return _search_in_memory(setup, speed, num_passages)


def _search_in_memory(setup: Setup, speed: _Speed, num_passages: int) -> float:
    numbers = num_passages * setup.dim
    if setup.searches_on_gpu:  # read as halves, written in single precision, and read again
        return speed.moved(numbers * 10)
    return numbers * 4 / (_CORE.bandwidth_gb_s * 1e9 * setup.machine.cores)


def _read(setup: Setup, speed: _Speed) -> float:
    """A question of an evaluation: the teacher's pass, its indicators, and p_RETR."""
    if setup.reader is None:
        return 0.0
    num_passages = setup.config.training.num_passages
    flops = _pass_flops(setup, setup.reader) * _passes_of_teacher(setup)
    if issubclass(OBJECTIVES[setup.config.objective.name], LikelihoodObjective):
        flops += num_passages * _passes_of_drops(setup) * _pass_flops(setup, setup.reader, 1)
    flops += _encoder_flops(setup, num_passages * PASSAGE_TOKENS + QUERY_TOKENS)
    return speed.seconds(flops) + _PASS_S + _QUESTION_S


def _answer(setup: Setup, speed: _Speed) -> float:
    """A question answered: the prompt, then a pass a token, in which all weights are read for the batch."""
    if setup.reader is None:
        return 0.0
    batch = setup.config.data.evaluation_batch_size
    weights = setup.reader.parameters * setup.reader_bytes
    if setup.precision.endswith("mixed"):  # and cast each time
        weights += setup.reader.parameters * 4
    tokens = setup.config.reader.max_new_tokens
    prompts = setup.config.training.num_passages if setup.reads_alone else 1
    decoded = speed.seconds(2.0 * prompts * (setup.reader.in_layers + setup.reader.in_decoder))
    a_token = decoded + (speed.moved(weights) + _PASS_S) / batch
    return speed.seconds(_pass_flops(setup, setup.reader)) + tokens * a_token
