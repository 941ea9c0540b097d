"""How long commands take to begin: those that only read files, and a run up to its first training step."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.benchmarks.commands import run_python
from experiments.benchmarks.comparison import (
    AtMost,
    Comparison,
    Setting,
    Size,
    Spread,
    in_turns,
)

_LIMIT_S = 2.0
"""Of a command that needs no model."""
_LIMIT_OF_STEP_S = 10.0
"""Of a run up to its first step, where an earlier one has left the corpus encoded."""
_TO_FIRST_STEP = """
import os, sys
import lightning_modules.retriever_reader as of_module

def stop(self, questions, batch_idx):
    print("first step", flush=True)
    os._exit(0)

of_module.RetrieverReaderModule.training_step = stop
from experiments import run
sys.exit(run.main(sys.argv[1:]))
"""
_BY_HAND = """
import lightning, torch, transformers, sys
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

gguf, folder = sys.argv[1:]
where, _, file = gguf.rpartition("/")
reader = AutoModelForCausalLM.from_pretrained(where, gguf_file=file)
tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=file)
retriever, other = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
print("loaded", flush=True)
"""
_FEW_QUESTIONS = (
    "data.max_train=20",
    "data.max_validation=2",
    "data.max_test=2",
    "evaluation.num_read=1",
    "evaluation.num_read_test=1",
    "reader.max_new_tokens=1",
    "trainer.max_steps=1",
    "trainer.progress_bar=false",
    "trainer.accelerator=cpu",
)
_SMALL_RUN = ("data.max_passages=100", *_FEW_QUESTIONS)


def measure(setting: Setting) -> list[Comparison]:
    """Each command in processes of its own."""
    with TemporaryDirectory() as folder:
        commands = _quick_commands()
        if setting.size is not Size.TINY:
            commands |= _commands_on_a_run(Path(folder))
        found = [_quick(name, command, setting) for name, command in commands.items()]
        if setting.size is not Size.TINY:
            found += _first_step(Path(folder), setting)
    return found


def _quick_commands() -> dict[str, list[str]]:
    """Those that need no run."""
    return {
        "run --list": ["-m", "experiments.run", "--list"],
        "run --print-config": ["-m", "experiments.run", "--exp", "quickstart", "--print-config"],
    }


def _commands_on_a_run(folder: Path) -> dict[str, list[str]]:
    """Those that look at what a run has written: a small one, which is made here."""
    run_python(["-m", "experiments.run", "--exp", "quickstart", f"runs={folder}/runs", *_SMALL_RUN])
    [run] = (folder / "runs" / "quickstart").iterdir()
    tokens = folder / "tokens.parquet"
    run_python(["-m", "experiments.analyse", "--run", str(run), "--instances", "2", "--out", str(tokens)])
    return {
        "report RUN": ["-m", "experiments.report", str(run), "--out", str(folder / "report")],
        "analyse --from FILE": ["-m", "experiments.analyse", "--from", str(tokens)],
    }


def _quick(name: str, command: Sequence[str], setting: Setting) -> Comparison:
    took = in_turns({"command": lambda: run_python(command)}, setting)["command"]
    return _within(name, took, _LIMIT_S)


def _within(what: str, took: Spread, limit_s: float) -> Comparison:
    return Comparison(what, f"{limit_s:g} seconds", took, Spread([limit_s] * len(took.values)), AtMost(1.0))


def _first_step(folder: Path, setting: Setting) -> list[Comparison]:
    """Of quickstart over the whole corpus, with few questions."""
    from datamodules import embedded

    run = ["-c", _TO_FIRST_STEP, "--exp", "quickstart", f"runs={folder}/runs", *_FEW_QUESTIONS]
    run_python(run)  # encodes the corpus
    by_hand = ["-c", _BY_HAND, str(embedded.reader_gguf()), str(embedded.retriever_folder())]
    took = in_turns(
        {"run": lambda: run_python(run), "by hand": lambda: run_python(by_hand)}, setting, is_warm=True
    )
    what = "run --exp quickstart, its corpus encoded before, up to its first step"
    return [
        _within(what, took["run"], _LIMIT_OF_STEP_S),
        Comparison(what, "both models loaded by hand", took["run"], took["by hand"]),
    ]
