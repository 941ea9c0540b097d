"""Bytes worked out by hand, from sizes that are public."""

import pytest

from datamodules.embedding_matrix import MatrixShape
from experiments.config import load_config
from experiments.planning.demands import Demand, demands_of, index_bytes
from experiments.planning.machines import named_machine
from experiments.planning.setup import Setup, describe

WIKIPEDIA = 21_015_324
MATRIX = WIKIPEDIA * 768 * 2
FALCON, CONTRIEVER = 1_311_625_216, 108_891_648


def setup_of(name: str, folder, *overrides: str, gpu: str = "a100-80gb") -> Setup:
    places = [f"runs={folder}/runs", f"data.root={folder}/data"]
    return describe(load_config(name, [*places, *overrides]), named_machine(gpu, 128, None, 1))


def parts(demand: Demand) -> dict[str, tuple[float, float]]:
    return {part.name: (part.about, part.at_least) for part in demand.parts}


def test_offshelf_nq_on_an_a100(tmp_path):
    setup = setup_of("offshelf_nq", tmp_path)
    assert setup.matrix_bytes == MatrixShape("", WIKIPEDIA, 768).num_bytes == MATRIX
    disk, memory, gpu = (parts(demand) for demand in demands_of(setup))
    trained = FALCON + CONTRIEVER
    # weights, gradients and two moments in float32
    assert gpu["models, gradients and moments"] == (16 * trained, 16 * trained)
    assert gpu["index"] == (MATRIX, MATRIX)
    # the update's copy of the moments is more than a step of one question keeps
    assert gpu["activations and workspace"] == (4 * trained, 0)
    assert sum(about for about, _ in gpu.values()) == pytest.approx(66.3e9, rel=0.01)

    assert disk["index of the start, for all runs"] == (MATRIX, MATRIX)
    assert disk["indices of the run, up to 2"] == (2 * MATRIX, 2 * MATRIX)
    # three with weights and moments, five of weights, three of the passage encoder alone
    kept = 56 * trained + 12 * CONTRIEVER
    assert disk["checkpoints and trained models"] == (kept, 12 * trained)

    # 100 words each, in a file that no run has made
    assert disk["knowledge base"] == (WIKIPEDIA * 680, WIKIPEDIA * 500)
    slice_of = parts(demands_of(setup_of("offshelf_nq", tmp_path, "data.max_passages=1000000"))[0])
    assert slice_of["knowledge base"] == ((WIKIPEDIA + 1_000_000) * 680, WIKIPEDIA * 500)

    # weights and moments at the end of training, and the best weights
    assert memory["models, loaded and saved"] == (16 * trained, 12 * trained)
    assert memory["part that validations search"] == (1_000_000 * 768 * 2, 0), "on its way to the GPU"
    assert sum(about for about, _ in memory.values()) < 40e9


def test_a_frozen_reader_in_half_precision(tmp_path):
    gpu = parts(demands_of(setup_of("step2_nq", tmp_path, "reader.dtype=bfloat16"))[2])
    assert gpu["models, gradients and moments"][1] == 2 * FALCON + 16 * CONTRIEVER
    untied = ["retriever.tied=false", "retriever.train_passage_encoder=false"]
    gpu = parts(demands_of(setup_of("step2_nq", tmp_path, *untied))[2])
    assert gpu["models, gradients and moments"][1] == 4 * FALCON + 20 * CONTRIEVER
    gpu = parts(demands_of(setup_of("checkpoint_nq", tmp_path))[2])
    assert gpu["models, gradients and moments"][1] == 4 * (FALCON + CONTRIEVER)


def test_parts_of_a_reader(tmp_path):
    """LoRA trains little of it, several GPUs share a frozen one, and activations can be made twice."""

    def models(name: str, *overrides: str) -> float:
        return parts(demands_of(setup_of(name, tmp_path, *overrides))[2])["models, gradients and moments"][1]

    # matrices of rank 16 beside the attention's four, in each of 24 layers
    lora = 16 * 16 * 8 * 2048 * 24
    overrides = ["reader.lora_rank=16", "reader.dtype=bfloat16"]
    assert models("offshelf_nq", *overrides) == 2 * FALCON + lora + 16 * CONTRIEVER
    sharded = ["trainer.strategy=fsdp", "trainer.devices=2", "trainer.num_nodes=2"]
    assert models("step2_nq", *sharded) == 4 * FALCON // 4 + 16 * CONTRIEVER
    batch = ["data.batch_size=16"]
    kept, made_twice = (
        parts(demands_of(setup_of("offshelf_nq", tmp_path, *batch, *more))[2])["activations and workspace"][0]
        for more in ([], ["reader.gradient_checkpointing=true"])
    )
    assert made_twice < kept / 2


def test_an_exact_index_that_several_gpus_share(tmp_path):
    several = ["trainer.devices=2", "trainer.num_nodes=2"]
    gpu = parts(demands_of(setup_of("step2_nq", tmp_path, *several))[2])
    assert gpu["index"] == (MATRIX / 4, MATRIX / 4)
    whole = setup_of("step2_nq", tmp_path, *several, "index.factory=IVF16384,PQ64", "index.gpu=true")
    assert parts(demands_of(whole)[2])["index"][0] == WIKIPEDIA * (64 + 8)


def test_the_part_that_validations_search_is_gathered_from_all_processes(tmp_path):
    def part(*overrides):
        _, memory, gpu = (parts(demand) for demand in demands_of(setup_of("step2_nq", tmp_path, *overrides)))
        return memory["part that validations search"][0], gpu["part that validations search"][0]

    of_part = 1_000_000 * 768 * 2
    assert part() == (of_part, of_part)
    # of each of two processes: its share, what is gathered and what is kept
    assert part("trainer.devices=2") == (2 * 2.5 * of_part, 2 * of_part)


def test_an_index_that_is_searched_elsewhere(tmp_path):
    assert "index" not in parts(demands_of(setup_of("step2_nq", tmp_path, "index.gpu=false"))[2])
    approximate = setup_of("step2_nq", tmp_path, "index.factory=IVF16384,PQ64")
    assert index_bytes(approximate) == WIKIPEDIA * (64 + 8)
    disk, memory, gpu = (parts(demand) for demand in demands_of(approximate))
    assert "index" not in gpu, "faiss-cpu searches it"
    assert memory["index"][0] == WIKIPEDIA * 72
    assert disk["embeddings, while an index is made"] == (MATRIX, MATRIX)


def test_on_the_cpu_all_is_in_the_hosts_memory(tmp_path):
    disk, memory = demands_of(setup_of("slice_vital", tmp_path, gpu="none"))
    # single precision, in memory: beside the embeddings while it is made
    assert parts(memory)["index, while it is made"] == (1200 * 384 * 4 * 2, 1200 * 384 * 4)
    assert parts(disk)["index of the start, for all runs"][0] == 1200 * 384 * 4
    large = parts(demands_of(setup_of("step2_nq", tmp_path, gpu="none"))[1])
    assert large["blocks of the embeddings file"] == (300_000_000, 0), "its file is read in blocks"
    # frozen weights may be pages of their file
    assert large["models, gradients and moments"] == (4 * FALCON + 16 * CONTRIEVER, 16 * CONTRIEVER)


def test_what_is_there_is_not_needed_again(tmp_path):
    """Embeddings of the start that some run has left, or begun."""
    place = tmp_path / "runs" / "cache" / "index" / "0123456789abcdef.partial"
    place.mkdir(parents=True)
    with (place / "embeddings.f16").open("wb") as file:
        file.truncate(MATRIX)  # sparse
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "psgs_w100.tsv.gz").touch()
    disk = parts(demands_of(setup_of("offshelf_nq", tmp_path))[0])
    assert "index of the start, for all runs" not in disk
    assert "passage file, downloaded" not in disk
