"""What a knowledge base of Wikipedia's size costs: time, disk and memory, from file to search.

`python -m experiments.benchmarks.scale FOLDER` makes passages of random words and a stand-in for a retriever:
BERT's embeddings of 768 dimensions without a layer, so that all is measured that is not the encoder. Then it
does what a training run does, by the classes that runs use: it builds the knowledge base, encodes it (killed
half way by SIGKILL, and resumed), searches it, changes the retriever and refreshes the index. Every passage
that is searched for by its own words must be the first that is found. Prints a table and writes
FOLDER/scale.json; what it made is deleted.

Memory is the process's own (anonymous) memory at its peak: pages of files that are read count as free.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.command_line import quieten, run_command

if TYPE_CHECKING:
    from datamodules.batches import Passage
    from datamodules.embedding_matrix import EmbeddingMatrix
    from lightning_modules.retrieval import RetrievalModule

WIKIPEDIA_2018 = 21_015_324
_NUM_WORDS = 4096
_WORDS_A_PASSAGE = 8
_DIM = 768
_NUM_QUERIES = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.scale", description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="on the disk to use; made where it is missing")
    parser.add_argument("--passages", type=int, default=WIKIPEDIA_2018)
    parser.add_argument("--batch-size", type=int, default=128, help="passages encoded together")
    parser.add_argument("--part", choices=("encode", "search", "refresh"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    folder = Path(options.folder)
    if options.part is not None:
        quieten()
        print(json.dumps(_part(options.part, folder, options.batch_size)), flush=True)
        return 0
    return run_command(lambda: _measure(folder, options.passages, options.batch_size))


def _measure(folder: Path, num_passages: int, batch_size: int) -> int:
    quieten()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        found = {"build the knowledge base": _build(folder, num_passages)}
        found["encode, until killed half way"] = _killed_half_way(folder, batch_size)
        found["encode the rest"] = _in_process("encode", folder, batch_size)
        found["encode the rest"]["passages"] -= found["encode, until killed half way"]["passages"]
        found |= _in_process("search", folder, batch_size)
        if shutil.disk_usage(folder).free < num_passages * _DIM * 2:
            print(
                "two matrices do not fit on this disk: the old one is deleted before the refresh", flush=True
            )
            shutil.rmtree(folder / "index")
        found["refresh the index"] = _in_process("refresh", folder, batch_size)
    finally:
        for made in ("knowledge.arrow", "index"):
            path = folder / made
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True) if path.is_file() else None
    (folder / "scale.json").write_text(json.dumps({"passages": num_passages, **found}, indent=2))
    _show(num_passages, found)
    return 0


def _show(num_passages: int, found: dict[str, dict[str, float]]) -> None:
    from experiments.show.console import console_table, new_console

    rows = [
        [
            name,
            f"{values['seconds']:,.0f}" if values["seconds"] >= 10 else f"{values['seconds']:.2f}",
            f"{values['passages'] / values['seconds']:,.0f}" if "passages" in values else "",
            f"{values['disk_gb']:.2f}" if "disk_gb" in values else "",
            f"{values['memory_gb']:.2f}",
        ]
        for name, values in found.items()
    ]
    heads = ("", "seconds", "passages/s", "GB on disk", "GB of memory")
    new_console().print(console_table(f"{num_passages:,} passages of {_DIM} dimensions", heads, rows))


# ---- the knowledge base ----


def _build(folder: Path, num_passages: int) -> dict[str, float]:
    from datamodules.passages import build_knowledge_base

    with _measured() as measured:
        build_knowledge_base(_passages(num_passages), folder / "knowledge.arrow")
    disk = (folder / "knowledge.arrow").stat().st_size
    return {**measured, "passages": num_passages, "disk_gb": disk / 1e9}


def _words() -> list[str]:
    generator = random.Random(0)
    return ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(_NUM_WORDS)]


def _passages(count: int) -> Iterator["Passage"]:
    from datamodules.batches import Passage

    words, generator = _words(), random.Random(1)
    for number in range(count):
        yield Passage(str(number), "", " ".join(generator.choices(words, k=_WORDS_A_PASSAGE)))


# ---- parts in processes of their own ----


def _in_process(part: str, folder: Path, batch_size: int) -> Any:
    ended = subprocess.run(_command(part, folder, batch_size), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(ended.stdout.splitlines()[-1])


def _command(part: str, folder: Path, batch_size: int) -> list[str]:
    own = [sys.executable, "-m", "experiments.benchmarks.scale", str(folder)]
    return [*own, "--part", part, "--batch-size", str(batch_size)]


def _killed_half_way(folder: Path, batch_size: int) -> dict[str, float]:
    """The process is killed as soon as half of the chunks are written."""
    from datamodules.sealed_files import DamagedFileError

    started, memory_gb = time.perf_counter(), 0.0
    matrix: EmbeddingMatrix | None = None
    num_written = 0
    with subprocess.Popen(_command("encode", folder, batch_size), stdout=subprocess.PIPE) as process:
        while process.poll() is None and (matrix is None or 2 * num_written < len(matrix.shape.chunks)):
            time.sleep(0.05)
            memory_gb = max(memory_gb, _own_memory_gb(process.pid))
            matrix = matrix or _begun(folder)
            if matrix is not None:
                with contextlib.suppress(DamagedFileError):  # it has got its name just now, and is whole
                    num_written = len(matrix.shape.chunks) - len(matrix.missing())
        process.send_signal(signal.SIGKILL)
    if matrix is None or process.returncode != -signal.SIGKILL:
        raise ValueError("the encoding ended before it could be killed; measure with more --passages")
    return {
        "seconds": time.perf_counter() - started,
        "memory_gb": memory_gb,
        "passages": num_written * matrix.shape.rows_a_chunk,
        "disk_gb": matrix.shape.num_bytes / 1e9,
    }


def _begun(folder: Path) -> "EmbeddingMatrix | None":
    from datamodules.embedding_matrix import EmbeddingMatrix

    for partial in (folder / "index").glob("*.partial"):
        with contextlib.suppress(FileNotFoundError):  # its room is being made
            return EmbeddingMatrix.attach(partial)
    return None


def _part(part: str, folder: Path, batch_size: int) -> Any:
    from lightning import Trainer

    from callbacks.refresh_index import RefreshIndex

    module = _module(folder)
    if part == "refresh":
        module.retriever.query_encoder.embeddings.LayerNorm.weight.data += 0.01  # type: ignore[union-attr, operator]
    callback = RefreshIndex("-1", folder / "index", batch_size=batch_size)
    callback.builder.largest_in_memory_bytes = 0
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", devices=1)
    with _measured() as measured:
        callback.refresh(trainer, module)
    if part != "search":
        return {**measured, "passages": len(module.knowledge_base)}
    return {"open it": measured, **_search(module)}


def _module(folder: Path) -> "RetrievalModule":
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from datamodules.passages import KnowledgeBase
    from lightning_modules.retrieval import RetrievalModule
    from lightning_modules.retriever import Retriever

    torch.manual_seed(0)
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *_words()])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    config = BertConfig(vocab_size=len(words), hidden_size=_DIM, num_hidden_layers=0, num_attention_heads=12)
    encoder = BertModel(config, add_pooling_layer=False)
    # without places, so that a text and its words are the same
    encoder.embeddings.position_embeddings.weight.data.zero_()
    return RetrievalModule(
        Retriever(encoder, fast, normalize=True), KnowledgeBase(folder / "knowledge.arrow")
    )


def _search(module: "RetrievalModule") -> dict[str, dict[str, float]]:
    from datamodules.batches import Question

    total = len(module.knowledge_base)
    rows = sorted(random.Random(2).sample(range(total), min(_NUM_QUERIES, total)))
    passages = module.knowledge_base.select(rows)
    questions = [Question(passage.id, passage.text, ()) for passage in passages]
    found: dict[str, dict[str, float]] = {}
    for count in (len(questions), 1):
        with _measured() as measured:
            ranked = module.search_index(questions[:count], k=20)
        own = sum(of_question[0] == row for of_question, row in zip(ranked, rows, strict=False))
        if own < count:
            raise ValueError(f"{count - own} of {count} passages were not found by their own words")
        found[f"search for {count} question{'s' if count > 1 else ''} at once"] = measured
    return found


# ---- time and memory ----


@contextlib.contextmanager
def _measured() -> Iterator[dict[str, float]]:
    """Seconds, and the process's own memory at its peak."""
    measured: dict[str, float] = {"seconds": 0.0, "memory_gb": 0.0}
    is_over = threading.Event()

    def watch() -> None:
        while True:
            measured["memory_gb"] = max(measured["memory_gb"], _own_memory_gb(os.getpid()))
            if is_over.wait(0.05):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    started = time.perf_counter()
    watcher.start()
    try:
        yield measured
    finally:
        measured["seconds"] = time.perf_counter() - started
        is_over.set()
        watcher.join()


def _own_memory_gb(process: int) -> float:
    """Without pages of files (Linux)."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    sizes = [line.split()[1] for line in lines if line.startswith("RssAnon:")]
    return int(sizes[0]) * 1024 / 1e9 if sizes else 0.0


if __name__ == "__main__":
    sys.exit(main())
