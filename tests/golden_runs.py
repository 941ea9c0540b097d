"""Does a change of the code leave every number as it was?

    python -m tests.golden_runs record FILE      # before
    python -m tests.golden_runs compare FILE     # after; exits with 1 and names what differs
    python -m tests.golden_runs compare FILE --rename 'readings=metrics'    # a key that changed on purpose

Complete tiny runs, each objective with each reader kind in each context, alone and with a trained reader: the
losses of every step, all that validations and tests measured, predictions, final weights; pre-flight checks,
token files' metrics, the control for length, a report's numbers. The same machine gives the same numbers to
the last bit; another one need not, so the file is made anew where it is needed and is no part of the tests.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments import analyse, control_length, probe, report, run
from experiments.runs import RunFolder
from tests.tiny_models import save_tiny_models
from tests.toy_files import as_overrides, toy_settings

OBJECTIVES = ("adist", "pdist", "emdr2", "loop")
READERS = {
    "concatenated": {"reader.context": "concatenated"},
    "independent": {"reader.context": "independent"},
    "fusion": {},
}
OTHER_RUNS: dict[str, dict[str, object]] = {
    "shuffled": {"reader.context": "concatenated", "reader.passage_order": "shuffled"},
    "mean": {"objective.passage_score": "mean"},
    "top5": {"objective.passage_score": "top5", "objective.attention_distribution": "sum"},
    "first": {"objective.passage_score": "first", "objective.constants": "atlas"},
    "heads": {"reader.attention_heads": "0.1,1.*"},
    "contextual": {"evaluation.token_embeddings": "contextual"},
    "drops by gradient": {"objective.name": "pdist", "evaluation.token_drops": "gradient"},
    "reranked": {"retriever.rerank_from": 22},
    "untied": {"retriever.tied": "false", "retriever.train_passage_encoder": "false"},
    "step1": {"training.train_retriever": "false", "training.train_reader": "true"},
    "no training": {"trainer.max_steps": 0},
    "closed book": {"trainer.max_steps": 0, "evaluation.closed_book": "true"},
    "retrieve only": {"trainer.max_steps": 0, "evaluation.retrieve_only": "true"},
    "substring": {"evaluation.answer_match": "substring", "evaluation.attention_normalization": "prompt"},
}
_NOT_COMPARED = (
    *("times_s", "seconds", "made", "environment", "command", "config", "git_revision", "packages"),
    *("checksum", "checksums", "read_once"),
)


PARTS = ("runs", "checks")


def record(folder: Path, parts: Collection[str] = PARTS) -> dict[str, Any]:
    """Every number of every run, by a name that says where it is from."""
    found: dict[str, Any] = {}
    if "checks" in parts:
        for kind, settings in READERS.items():
            for objective in ("adist", "loop"):
                found |= _check(folder, kind, {**settings, "objective.name": objective})
    if "runs" not in parts:
        return found
    for kind, settings in READERS.items():
        for objective in OBJECTIVES:
            for trained in ("false", "true"):
                name = f"{objective} {kind}{' joint' if trained == 'true' else ''}"
                changes = {**settings, "objective.name": objective, "training.train_reader": trained}
                found |= _run(folder, name, kind, changes)
    for name, changes in OTHER_RUNS.items():
        found |= _run(folder, name, "other", changes)
    return found | _others(folder)


def _settings(folder: Path, kind: str) -> dict[str, object]:
    place = folder / kind
    if not place.exists():
        place.mkdir()
    settings = toy_settings(place, evaluation__generate_in_validation="true", training__num_passages=4)
    settings["data.validation"] = settings["data.train"]  # enough questions for decisions
    if kind == "fusion":
        settings["reader.name"] = save_tiny_models(place / "fusion", "t5")[0]
    return settings


def _run(folder: Path, name: str, kind: str, changes: dict[str, object]) -> dict[str, Any]:
    print(name, file=sys.stderr, flush=True)
    settings = {**_settings(folder, kind), **changes, "runs": folder / "runs" / _slug(name)}
    _silently(lambda: run.main(["--exp", "quickstart", *as_overrides(settings)]))
    (made,) = (RunFolder(path.parent) for path in (folder / "runs").glob(f"{_slug(name)}/*/*/summary.json"))
    return {f"run {name}: {key}": value for key, value in _of_run(made)}


def _slug(name: str) -> str:
    return name.replace(" ", "_")


def _of_run(made: RunFolder) -> Iterator[tuple[str, Any]]:
    yield from _flat("summary", json.loads(made.summary.read_text()))
    for path in (made.validations, made.predictions, made.predictions_start):
        if path.is_file():
            for line in path.read_text().splitlines():
                content = json.loads(line)
                yield from _flat(f"{path.stem} {content.get('id', content.get('step'))}", content)
    for model in (made.retriever, made.reader):
        if model.is_dir():
            for name, weight in sorted(load_file(model / "model.safetensors").items()):
                yield f"weights {model.name} {name}", hashlib.sha256(weight.tobytes()).hexdigest()
    events = EventAccumulator(str(next(made.path.glob("tensorboard*"))))
    events.Reload()
    for tag in events.Tags()["scalars"]:
        if not tag.startswith("time/"):
            values = [(event.step, event.value) for event in events.Scalars(tag)]
            yield from ((f"scalar {tag} {step} {i}", value) for i, (step, value) in enumerate(values))


def _check(folder: Path, kind: str, changes: dict[str, object]) -> dict[str, Any]:
    name = f"check {changes['objective.name']} {kind}"
    print(name, file=sys.stderr, flush=True)
    out = folder / "checks" / _slug(name)
    settings = {**_settings(folder, kind), **changes}
    arguments = ["--exp", "quickstart", "--instances", "12", "--split", "train", "--all", "--out", str(out)]
    _silently(lambda: probe.main([*arguments, *as_overrides(settings)]))
    content = json.loads((out / "probe.json").read_text())
    return {f"{name}: {key}": value for key, value in _flat("", content)}


def _others(folder: Path) -> dict[str, Any]:
    """Of one run: its token file's metrics and the control for length. Of all: the report."""
    (made,) = (folder / "runs" / "adist_independent").glob("quickstart/*")
    print("analyse, control, report", file=sys.stderr, flush=True)
    found: dict[str, Any] = {}
    for start in ([], ["--start"]):
        _silently(lambda start=start: analyse.main(["--run", str(made), "--instances", "5", *start]))
    for path in sorted((made / "analysis").glob("*.json*")):
        for line in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            content = json.loads(line)
            found |= dict(_flat(f"{path.name} {content.get('id', '')}", content))
    control = _silently(lambda: control_length.main([str(made)]))
    found |= {f"control line {i}": line.split() for i, line in enumerate(control.splitlines())}
    _silently(lambda: report.main([str(folder / "runs" / "adist_independent"), "--out", str(folder / "rep")]))
    lines = (folder / "rep" / "report.md").read_text().splitlines()
    shown = [line.replace(str(folder), "FOLDER") for line in lines if "/quickstart/" not in line]
    found |= {f"report line {i}": line for i, line in enumerate(shown)}
    return found


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in _NOT_COMPARED:
                yield from _flat(f"{prefix} {key}", item)
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for i, item in enumerate(value):
            yield from _flat(f"{prefix} {item.get('name', i) if isinstance(item, dict) else i}", item)
    else:
        yield prefix, value


def _silently(work: Any) -> str:
    """What was printed; a command that fails ends everything."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = work()
    assert code == 0, printed.getvalue()
    return printed.getvalue()


def renamed(found: dict[str, Any], renames: list[str]) -> dict[str, Any]:
    """With each `pattern=replacement` done to the keys."""
    for rename in renames:
        pattern, _, replacement = rename.partition("=")
        found = {re.sub(pattern, replacement, key): value for key, value in found.items()}
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What is another number, and what is on one side only."""
    changed = [
        f"{key}: {before[key]!r} -> {after[key]!r}"
        for key in before.keys() & after.keys()
        if json.dumps(before[key]) != json.dumps(after[key])
    ]
    gone = [f"gone: {key}" for key in before.keys() - after.keys()]
    new = [f"new: {key}" for key in after.keys() - before.keys()]
    return [*sorted(changed), *sorted(gone), *sorted(new)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.golden_runs", description=__doc__)
    parser.add_argument("what", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="compare these alone")
    parser.add_argument("--rename", nargs="+", default=[], metavar="PATTERN=REPLACEMENT")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = record(Path(folder), options.parts)
    if options.what == "record":
        options.file.write_text(json.dumps(found, indent=0))
        print(f"{len(found)} numbers recorded")
        return 0
    before = renamed(json.loads(options.file.read_text()), options.rename)
    if set(options.parts) != set(PARTS):
        before = {
            key: value
            for key, value in before.items()
            if key.startswith("check ") == ("checks" in options.parts)
        }
    found_differences = differences(before, json.loads(json.dumps(found)))
    print("\n".join(found_differences))
    print(f"{len(found)} numbers, {len(found_differences)} differences")
    return 1 if found_differences else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
