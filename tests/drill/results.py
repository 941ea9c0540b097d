"""What a finished run gave, so that two runs can be compared to the bit."""

import hashlib
import json
from pathlib import Path

import torch

from callbacks.checkpoint_files import load_sealed
from datamodules.sealed_files import read_json
from experiments.runs import RunFolder

_OF_TIME = ("times_s", "checksums", "read_once")


def digests(run: RunFolder) -> dict[str, str]:
    """A digest by part: all of it but times."""
    summary = {name: value for name, value in read_json(run.summary).items() if name not in _OF_TIME}
    last = load_sealed(run.last_checkpoint)
    best = [value for name, value in last["callbacks"].items() if name.startswith("SaveBest")]
    found = {
        "summary": json.dumps(summary, sort_keys=True).encode(),
        "last weights": _bytes_of(last["state_dict"]),
        "last step": str(last["global_step"]).encode(),
        "best": json.dumps([{"score": state["score"], "step": state["step"]} for state in best]).encode(),
        **{
            file.name: file.read_bytes() for file in (run.predictions, run.predictions_start, run.validations)
        },
        "exported": b"".join(file.read_bytes() for file in sorted(run.retriever.rglob("*.safetensors"))),
    }
    return {part: hashlib.sha256(content).hexdigest() for part, content in found.items()}


def left_behind(folder: Path) -> list[str]:
    """Files that were begun and not ended."""
    marks = (".partial", ".tmp", ".damaged")
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if any(mark in path.name for mark in marks) or path.name.startswith("tmp")
    )


def _bytes_of(weights: dict[str, torch.Tensor]) -> bytes:
    return b"".join(name.encode() + weights[name].numpy().tobytes() for name in sorted(weights))
