"""What a first run on a GPU trips over, found on the CPU: tensors of two devices, bfloat16, NumPy.

Everything that a step and an evaluation compute runs on a pretended device, and comes to the CPU's numbers.
"""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from callbacks.save_tokens import units_of
from datamodules.batches import Batch, SolvedExample
from datamodules.embedding_matrix import EmbeddingMatrix, MatrixShape
from datamodules.matrix_index import MatrixIndex
from datamodules.partial_index import PartialIndex
from datamodules.prompts import Shown
from lightning_modules.attention_heads import AttentionHeads
from lightning_modules.encoding import encode_passages
from lightning_modules.evaluation import ReadQuestions
from lightning_modules.fingerprint import model_fingerprint
from lightning_modules.metrics.hit_rate import HitRate
from lightning_modules.metrics.reader_measures import ReaderMeasures
from lightning_modules.metrics.units import passage_units
from lightning_modules.objectives import OBJECTIVES, make_objective
from lightning_modules.read_once import ReadOnce
from lightning_modules.readers.base import Reader
from lightning_modules.readers.outputs import TokenEmbeddings
from lightning_modules.retriever import parts_of_similar_length
from lightning_modules.scores import sum_by_place
from lightning_modules.token_drops import TokenDrops, drops_by_masking
from tests.pretended_device import DEVICE, PretendedDevice
from tests.tiny_models import (
    tiny_reader,
    tiny_reader_of,
    tiny_retriever,
    toy_passages,
    toy_questions,
)

KINDS = ("concatenated", "independent", "fusion_in_decoder")
HEADS = AttentionHeads.parse("0.1,1.0-2")
"""Of more than one layer, and not all of any."""


def toy_batch(with_answers: bool = True) -> Batch:
    """Questions and passages of unequal lengths, so that there is padding."""
    questions, passages = toy_questions()[:3], toy_passages()
    shown = [[passages[i], passages[12 + i], passages[i + 1]] for i in range(3)]
    return Batch(questions, shown, [question.answers[0] for question in questions] if with_answers else ())


def passes_of(reader: Reader, with_drops: bool = True) -> dict[str, object]:
    """Everything that a reader computes without generating."""
    batch = toy_batch()
    found = {
        "read": reader.read(batch),
        "read_attention": reader.read_attention(batch),
        "read_answer": reader.read_answer(batch),
        "read_heads": reader.read_heads(batch),
        "each_alone": reader.answer_likelihoods(batch, Shown.EACH_ALONE, 0.5),
        "each_left_out": reader.answer_likelihoods(batch, Shown.EACH_LEFT_OUT),
    }
    if with_drops:
        found |= {str(how): reader.read_drops(batch, how) for how in TokenDrops}
    if reader.family == "decoder_only":
        found["question_heads"] = reader.read_question_heads(batch)
        if reader.reads_alone:
            found["signals"] = reader.read_signals(batch)
            found["question_attention"] = reader.read_question_attention(batch)
        else:
            weights = torch.zeros(3, 3, device=reader.device).log_softmax(dim=-1)
            found["weighted"] = reader.read_weighted(batch).log_probs_at(weights)
    return found


def fields_of(output: object) -> dict[str, object]:
    if isinstance(output, torch.Tensor):
        return {"": output}
    return output._asdict() if isinstance(output, tuple) else vars(output)


def numbers_of(outputs: dict[str, object]) -> dict[str, torch.Tensor]:
    """All tensors of floats of some outputs, on the CPU in float32."""
    found = {}
    for name, output in outputs.items():
        for field, value in fields_of(output).items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                found[f"{name}.{field}"] = value.detach().cpu().float()
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_passes_of_a_reader(kind, dtype):
    reader = tiny_reader_of(kind)
    reader = type(reader)(reader.model, reader.prompts, HEADS).to(dtype)
    with torch.no_grad():
        wanted = numbers_of(passes_of(reader))
        with PretendedDevice():
            moved = copy.deepcopy(reader).to(DEVICE)
            outputs = passes_of(moved)
            of_fields = [value for output in outputs.values() for value in fields_of(output).values()]
            assert all(one.device == DEVICE for one in of_fields if isinstance(one, torch.Tensor))
            found = numbers_of(outputs)
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        known = ~values.isnan()  # what stands around passages has no drop where they alone are masked
        assert torch.equal(~found[name].isnan(), known), name
        error = (found[name] - values)[known].abs().max() / values[known].abs().max()
        # bfloat16 rounds each of two ways to the same sums by itself; drops are differences of such sums
        in_bf16 = 0.3 if name.startswith(("masked", "gradient")) else 0.06
        assert error < (1e-4 if dtype is torch.float32 else in_bf16), name


@pytest.mark.parametrize("kind", KINDS)
def test_passes_of_a_reader_in_mixed_precision(kind):
    reader = tiny_reader_of(kind)
    reader = type(reader)(reader.model, reader.prompts, HEADS)
    with torch.no_grad():
        wanted = numbers_of(passes_of(reader, with_drops=False))
        with PretendedDevice(), torch.autocast(DEVICE.type, torch.bfloat16):
            found = numbers_of(passes_of(reader.to(DEVICE), with_drops=False))
    assert found.keys() == wanted.keys()
    differs = {name: float((found[name] - of).abs().max() / of.abs().max()) for name, of in wanted.items()}
    assert 1e-4 < max(differs.values()) < 0.1, differs


@pytest.mark.parametrize("kind", KINDS)
def test_answers(kind):
    """The caches of the generation, its masks and the passages' weights are where the model is."""
    reader, batch = tiny_reader_of(kind), toy_batch(with_answers=False)
    weights = torch.tensor([[0.5, 0.3, 0.2]] * 3).log()
    wanted = reader.generate(batch, weights, 4), reader.generate_closed_book(batch.questions, 4)
    with PretendedDevice():
        moved = reader.to(DEVICE)
        found = moved.generate(batch, weights.to(DEVICE), 4), moved.generate_closed_book(batch.questions, 4)
    assert found == wanted


def test_solved_examples_are_read_first():
    example = SolvedExample(toy_questions()[7], toy_passages()[7], toy_questions()[7].answers[0])
    reader, batch = tiny_reader("independent").showing(examples=(example,)), toy_batch()
    weights = torch.zeros(3, 3).log_softmax(dim=-1)
    with torch.no_grad():
        wanted = reader.read(batch).token_scores
        answers = reader.generate(batch, weights, 3)
        with PretendedDevice():
            moved = reader.to(DEVICE)
            assert torch.allclose(moved.read(batch).token_scores.cpu(), wanted, atol=1e-5)
            assert moved.generate(batch, weights.to(DEVICE), 3) == answers


@pytest.mark.parametrize("embeddings", list(TokenEmbeddings))
@pytest.mark.parametrize("kind", KINDS)
def test_measures_of_an_evaluation(kind, embeddings):
    reader, batch = tiny_reader_of(kind), toy_batch()

    @torch.no_grad()
    def measured(device: torch.device) -> dict[str, torch.Tensor]:
        output = reader.to(device).read_answer(batch)
        read = replace(as_read(output, reader), units=passage_units(output, reader, embeddings))
        metric, hits = ReaderMeasures().to(device), HitRate((1, 5)).to(device)
        metric.update(read)
        hits.update(torch.tensor([0, 2, -1]).to(device))
        return {**metric.compute(), **hits.compute()}

    wanted = measured(torch.device("cpu"))
    with PretendedDevice():
        found = {name: value.cpu() for name, value in measured(DEVICE).items()}
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, equal_nan=True, msg=name)


@torch.no_grad()
def test_what_a_reader_gave_is_kept_and_written(tmp_path):
    """Signals that are read once, the reader's fingerprint, and the rows of a token file."""
    reader, batch = tiny_reader("independent"), toy_batch()
    wanted = reader.read_signals(batch)
    fingerprint = model_fingerprint(reader.model)
    with PretendedDevice():
        moved = reader.to(DEVICE)
        assert model_fingerprint(moved.model) == fingerprint
        kept = ReadOnce(moved, tmp_path)
        for _ in range(2):
            found = kept.read_signals(batch)
            assert torch.allclose(found.token_scores.cpu(), wanted.token_scores, atol=1e-5)
        assert (kept.num_read, kept.num_found) == (9, 9)
        units = units_of(as_read(moved.read_answer(batch), moved), moved)
    assert len(units) == 9
    assert all(np.isfinite(unit.token_scores).all() for unit in units)


def as_read(output, reader: Reader) -> ReadQuestions:
    log_p = torch.tensor([[0.5, 0.3, 0.2]] * 3).log().to(reader.device)
    has_answer = torch.tensor([[True, False, False]] * 3).to(reader.device)
    units = passage_units(output, reader)
    return ReadQuestions(has_answer, log_p, units, toy_batch(), output, log_p, log_p.sum())


# numbers that torch itself takes out of what the device holds
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar:UserWarning")
@pytest.mark.parametrize("is_mixed", [False, True], ids=["fp32", "mixed"])
@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in ("given", "labels")])
def test_a_step(name, is_mixed):
    """Read, teach, encode with gradient, go backward, update."""
    objective = make_objective(name)
    kind = "concatenated" if name == "end_to_end" else "independent"
    batch = toy_batch()

    def stepped(device: torch.device) -> tuple[float, torch.Tensor]:
        reader, retriever = tiny_reader(kind).to(device), tiny_retriever(normalize=True).to(device)
        optimizer = torch.optim.AdamW(retriever.parameters(), lr=1e-2)
        with torch.autocast(device.type, torch.bfloat16, enabled=is_mixed and device == DEVICE):
            with torch.no_grad():
                output = objective.read(reader, batch)
            queries = retriever.encode_queries([question.text for question in batch.questions])
            flat = retriever.encode_passages([passage for found in batch.passages for passage in found])
            log_p_retr = (flat.view(3, 3, -1) * queries[:, None]).sum(dim=-1).div(0.05).log_softmax(dim=-1)
            loss = objective.loss(objective.log_p_target(output, log_p_retr), log_p_retr, output)
        loss.backward()
        optimizer.step()
        return float(loss), next(retriever.parameters()).detach().cpu()

    wanted_loss, wanted = stepped(torch.device("cpu"))
    with PretendedDevice():
        found_loss, found = stepped(DEVICE)
    if is_mixed:
        assert found_loss == pytest.approx(wanted_loss, rel=0.1, abs=1e-3)
        assert found.isfinite().all()
        return
    assert found_loss == pytest.approx(wanted_loss, rel=1e-3, abs=1e-5)
    assert torch.allclose(found, wanted, atol=1e-4)


def test_embeddings_in_bfloat16_become_numpy_arrays():
    retriever = tiny_retriever()
    wanted = encode_passages(retriever, toy_passages(), batch_size=5)
    with PretendedDevice():
        found = encode_passages(retriever.to(DEVICE, torch.bfloat16), toy_passages(), batch_size=5)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=0.05 * np.abs(wanted).max())


@pytest.mark.parametrize("is_mixed", [False, True], ids=["fp32", "mixed"])
def test_a_matrix_is_searched_where_it_is_kept(tmp_path, is_mixed):
    generator = np.random.default_rng(0)
    embeddings = generator.standard_normal((300, 8), dtype=np.float32)
    matrix = EmbeddingMatrix.begin(tmp_path, MatrixShape("abc", 300, 8))
    matrix.write(0, embeddings)
    queries = generator.standard_normal((4, 8), dtype=np.float32)
    halves, rows = embeddings.astype(np.float16), np.arange(300)
    for make in (partial(MatrixIndex, matrix), partial(PartialIndex, halves, rows)):
        wanted_scores, wanted = make().search(queries, 5)
        with PretendedDevice(), torch.autocast(DEVICE.type, torch.bfloat16, enabled=is_mixed):
            scores, found = make(device=DEVICE).search(queries, 5)
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_allclose(scores, wanted_scores, rtol=1e-5)


@torch.no_grad()
def test_chosen_heads_are_found_without_waiting_for_the_device():
    waits = []
    for heads in (None, HEADS):
        reader = tiny_reader("independent")
        reader = type(reader)(reader.model, reader.prompts, heads)
        with PretendedDevice() as device:
            moved = reader.to(DEVICE)
            before = device.num_waits
            moved.read(toy_batch())
            waits.append(device.num_waits - before)
    assert waits[1] == waits[0] > 0


@pytest.mark.parametrize(
    ("num_prompts", "wanted_firsts"),
    [(20, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 6])],  # of few prompts, those of several places are read at once
)
def test_masking_waits_for_the_device_twice_however_many_tokens_there_are(num_prompts, wanted_firsts):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(num_prompts, 7, 4, generator=generator)
    whole = torch.randn(num_prompts, generator=generator)
    mask = torch.ones(num_prompts, 7, dtype=torch.bool)
    mask[1, :3] = False
    firsts = []

    def log_likelihoods_of(rows, given, first):
        firsts.append(first)
        return given[:, first:].sum(dim=(1, 2))

    wanted = drops_by_masking(inputs, mask, whole, log_likelihoods_of)
    with PretendedDevice() as device:
        moved = [of.to(DEVICE) for of in (inputs, mask, whole)]
        found = drops_by_masking(*moved, log_likelihoods_of)
        assert device.num_waits == 2  # for the tokens' places, and for where each batch of them begins
        torch.testing.assert_close(found.cpu(), wanted)
    assert firsts == wanted_firsts * 2


def test_a_retriever_trains_without_waiting_for_the_device():
    texts = [" ".join(["France", "Peru", "Rome"] * n) for n in (5, 1, 9, 3, 2, 8, 1, 4, 7, 6, 2)]
    retriever = tiny_retriever()
    wanted = retriever.encode_queries(texts).detach()
    with PretendedDevice() as device:
        moved = retriever.to(DEVICE)
        with torch.no_grad():
            moved.encode_queries(texts)
        num_of_model = device.num_waits  # the encoder looks whether there is padding
        found = moved.encode_queries(texts)
        assert found.requires_grad
        assert device.num_waits == 2 * num_of_model
        torch.testing.assert_close(found.detach().cpu(), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_parts_of_similar_length_are_found_with_one_wait_for_the_device(side):
    texts = [torch.arange(1, length + 1) for length in (3, 7, 1, 7, 2, 5, 4)]
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_side=side)
    inputs = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    wanted_order, wanted = parts_of_similar_length(inputs, 2)
    with PretendedDevice() as device:
        moved = {name: tensor.to(DEVICE) for name, tensor in inputs.items()}
        before = device.num_waits
        order, parts = parts_of_similar_length(moved, 2)
        assert device.num_waits == before + 1
        assert order.tolist() == wanted_order.tolist()
        for part, wanted_part in zip(parts, wanted, strict=True):
            for name in inputs:
                assert part[name].tolist() == wanted_part[name].tolist()


def test_sums_by_place():
    """In another way than on the CPU, where index_add adds one by one."""
    generator = torch.Generator().manual_seed(0)
    values, places = torch.randn(50, generator=generator), torch.randint(6, (50,), generator=generator)
    wanted = sum_by_place(values, places, 7)
    assert wanted[6] == 0
    with PretendedDevice():
        found = sum_by_place(values.to(DEVICE), places.to(DEVICE), 7).cpu()
    torch.testing.assert_close(found, wanted)


def test_the_device_is_as_strict_as_a_gpu():
    """Else nothing above would say anything."""
    with PretendedDevice():
        there, here = torch.ones(2, device=DEVICE), torch.ones(2)
        assert (there * torch.tensor(2.0)).tolist() == [2.0, 2.0]
        assert there[torch.tensor([0])].device == DEVICE
        assert there.cpu().device.type == "cpu"
        with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
            there + here
        with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
            here[there.bool()]
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
