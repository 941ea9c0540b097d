"""How fast the suite is beside what it is compared with: `python -m experiments.benchmarks [NAME ...]`."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.command_line import quieten, run_command
from experiments.show.text import three_digits

if TYPE_CHECKING:
    from experiments.benchmarks.comparison import Comparison, Setting, Spread

BENCHMARKS = {
    "capture": "answer attention of a forward pass, against the pass alone and against eager attention",
    "fid": "what each objective takes of a Fusion-in-Decoder reader, against Atlas's way",
    "step": "a distillation step, against the models' passes alone",
    "refresh": "encoding the corpus, against the file's order",
    "search": "exact and approximate search, against a product and topk of torch",
    "indicators": "the indicators of 1,000 questions, against a loop of NumPy and SciPy",
    "precision": "a frozen reader in bfloat16, against float32",
    "generate": "answers to several questions at once, against one at a time",
    "masking": "token scores of likelihoods, against a pass for each token",
    "start": "how long commands take to begin",
    "quickstart": "the whole of quickstart, against an earlier version; only where it is named",
}
"""The modules of this package that compare the suite with a baseline, and what each does."""
_ONLY_BY_NAME = ("quickstart",)
"""What takes so long that it is no part of all."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _measure(options))


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:12} {what}" for name, what in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks",
        description=f"{__doc__}\n\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="of benchmarks; default: all")
    parser.add_argument("--device", default="cpu", help="of the models, such as cuda; default: %(default)s")
    parser.add_argument("--size", default="small", help="tiny, small or full; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=8, help="for each comparison; default: %(default)s")
    parser.add_argument("--out", metavar="FILE.json", help="where all values go")
    return parser


def _measure(options: argparse.Namespace) -> int:
    quieten()
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        raise ValueError(f"there is no benchmark {unknown[0]!r}; choose among: {', '.join(BENCHMARKS)}")

    from datamodules.durable_files import write_durably
    from experiments.benchmarks.comparison import Setting, Size
    from experiments.show.console import new_console

    console = new_console()
    setting = Setting(device_named(options.device), Size(options.size), options.seconds)
    found: dict[str, Any] = {"environment": environment(setting), "benchmarks": {}}
    console.print(", ".join(f"{name} {value}" for name, value in found["environment"].items()))
    for name in options.names or [name for name in BENCHMARKS if name not in _ONLY_BY_NAME]:
        comparisons = import_module(f"experiments.benchmarks.{name}").measure(setting)
        console.print(table_of(name, comparisons))
        for line in dict.fromkeys(f"{one.what}: {one.agreement}" for one in comparisons if one.agreement):
            console.print(line, markup=False)
        console.print()
        found["benchmarks"][name] = [comparison.as_json() for comparison in comparisons]
        if options.out:  # after each, so that what was measured outlives an interrupt
            write_durably(Path(options.out), json.dumps(found, indent=2) + "\n")
    return 0


def device_named(name: str) -> Any:
    """A device of torch's.

    Raises:
        ValueError: torch knows none of this name, or it is not here.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name}: torch knows no such device; use cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"--device {name}: torch sees no GPU here; leave --device out, or install a CUDA build of torch"
        )
    return device


def environment(setting: "Setting") -> dict[str, Any]:
    """What figures must be read with."""
    import torch

    on_gpu = setting.device.type == "cuda"
    return {
        "size": setting.size.value,
        "device": torch.cuda.get_device_name(setting.device) if on_gpu else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        **{name: metadata.version(name) for name in ("torch", "transformers", "lightning")},
    }


# ---- the table ----


def table_of(name: str, comparisons: "Sequence[Comparison]") -> Any:
    """As the console shows it, in at most 100 columns."""
    from experiments.show.console import console_table

    heads = ("", "suite\nquartiles", "baseline\nquartiles", "ratio", "reach")
    rows = [
        [
            f"{one.what}, against {one.baseline_is}",
            _cell(one.suite, one.unit),
            "-" if one.baseline is None else _cell(one.baseline, one.unit),
            "-" if one.ratio is None else f"{one.ratio:.2f}",
            _reach(one),
        ]
        for one in comparisons
    ]
    return console_table(f"{name}: {BENCHMARKS.get(name, '')}", heads, rows)


def _cell(spread: "Spread", unit: str) -> str:
    low, high = spread.quartiles
    return f"{three_digits(spread.median)} {unit}\n{three_digits(low)}-{three_digits(high)}"


def _reach(comparison: "Comparison") -> str:
    if comparison.reach is None:
        return ""
    return f"{comparison.reach}\n{'met' if comparison.is_met else 'not met'}"


if __name__ == "__main__":
    sys.exit(main())
