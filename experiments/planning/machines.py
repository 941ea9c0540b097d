"""Machines that a run may be planned for: this one, or one with a named GPU."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from experiments.config import ConfigError, ExperimentConfig

GB = 10**9
NO_GPU = "none"
"""The name of a machine without a GPU."""


@dataclass(frozen=True)
class GPU:
    """A kind of GPU, with what large matrix products reach there and not with what its data sheet promises.

    Attributes:
        name: as `--gpu` takes it.
        memory_gb: of memory, in units of 10^9 bytes.
        bf16_tflops: in bfloat16; where it is emulated, what is left of it.
        fp32_tflops: in float32, without TF32.
        bandwidth_gb_s: of its memory.
        multiplies_bf16: in hardware.
    """

    name: str
    memory_gb: float
    bf16_tflops: float
    fp32_tflops: float
    bandwidth_gb_s: float
    multiplies_bf16: bool = True


GPUS: dict[str, GPU] = {
    gpu.name: gpu
    for gpu in (
        GPU("h200-141gb", 141, 400, 40, 3600),
        GPU("h100-80gb", 80, 400, 40, 2500),
        GPU("a100-80gb", 80, 140, 14, 1500),
        GPU("a100-40gb", 40, 140, 14, 1200),
        GPU("l40s-48gb", 48, 150, 45, 650),
        GPU("a6000-48gb", 48, 70, 22, 600),
        GPU("rtx4090-24gb", 24, 90, 50, 800),
        GPU("rtx3090-24gb", 24, 40, 20, 750),
        GPU("a10g-24gb", 24, 35, 15, 450),
        GPU("l4-24gb", 24, 30, 12, 230),
        GPU("v100-32gb", 32, 5, 11, 700, multiplies_bf16=False),
        GPU("v100-16gb", 16, 5, 11, 700, multiplies_bf16=False),
        GPU("t4-16gb", 15.8, 2, 4.5, 240, multiplies_bf16=False),
    )
}
"""About 45% of the peak of the tensor cores, 65% of the others', 75% of the memory's bandwidth."""

_UNKNOWN = GPU("a GPU that no table knows", 0, 40, 10, 500)


@dataclass(frozen=True)
class Machine:
    """What there is to run on.

    Attributes:
        name: for people.
        gpu: None = there is none.
        num_gpus: of them.
        gpu_bytes: memory of each GPU.
        memory_bytes: of the host, swap included; None = not known, so not compared.
        disk_bytes: free where runs are kept; None likewise.
        cores: of the CPU.
        is_here: whether it is the machine at hand.
    """

    name: str
    gpu: GPU | None
    num_gpus: int
    gpu_bytes: int
    memory_bytes: int | None
    disk_bytes: int | None
    cores: int = 16
    is_here: bool = False


def named_machine(gpu: str, memory_gb: float | None, disk_gb: float | None, num_gpus: int) -> Machine:
    """A machine that is not at hand.

    Args:
        gpu: of `GPUS`, or `none`.
        memory_gb: of the host, in units of 10^9 bytes; None = not known.
        disk_gb: free, likewise.
        num_gpus: how many.

    Raises:
        ConfigError: an unknown GPU, or a size below 0.
    """
    if gpu != NO_GPU and gpu not in GPUS:
        raise ConfigError(f"--gpu {gpu}: unknown; choose one of: {', '.join([*GPUS, NO_GPU])}")
    kind = GPUS.get(gpu)
    return Machine(
        name="a machine without GPU" if kind is None else f"{num_gpus} x {gpu}",
        gpu=kind,
        num_gpus=0 if kind is None else num_gpus,
        gpu_bytes=0 if kind is None else int(kind.memory_gb * GB),
        memory_bytes=_in_bytes("--memory", memory_gb),
        disk_bytes=_in_bytes("--disk", disk_gb),
    )


def this_machine(
    config: ExperimentConfig, memory_gb: float | None = None, disk_gb: float | None = None
) -> Machine:
    """The machine at hand; sizes that are given take the place of what it has."""
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = [torch.cuda.get_device_properties(number) for number in range(num_gpus)]
    machine = Machine(
        name="this machine",
        gpu=_kind_of(found[0].name, found[0].total_memory) if found else None,
        num_gpus=num_gpus,
        gpu_bytes=min((of_gpu.total_memory for of_gpu in found), default=0),
        memory_bytes=_host_memory(),
        disk_bytes=free_disk(Path(config.runs)),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        is_here=True,
    )
    if memory_gb is not None:
        machine = replace(machine, memory_bytes=_in_bytes("--memory", memory_gb))
    if disk_gb is not None:
        machine = replace(machine, disk_bytes=_in_bytes("--disk", disk_gb))
    return machine


def free_disk(path: Path) -> int:
    """Bytes that are free where a file or folder is, or would be made."""
    path = path.absolute()
    return shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists())).free


def _in_bytes(option: str, gb: float | None) -> int | None:
    if gb is not None and not 0 <= gb < float("inf"):
        raise ConfigError(f"{option} {gb}: give GB of at least 0")
    return None if gb is None else int(gb * GB)


def _kind_of(device_name: str, num_bytes: int) -> GPU:
    """The row of the table that is nearest in memory, among those of the name."""
    words = device_name.lower().replace(" ", "").replace("-", "")
    fitting = [gpu for gpu in GPUS.values() if gpu.name.partition("-")[0] in words]
    return min(fitting, key=lambda gpu: abs(gpu.memory_gb * GB - num_bytes), default=_UNKNOWN)


def _host_memory() -> int | None:
    """With swap, and no more than the control group of the process may have."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total = sum(int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "SwapTotal"))
    except (OSError, KeyError, ValueError):
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError, AttributeError):
            return None
    for limit in _group_limits():
        try:
            total = min(total, int(limit.read_text()))
        except (OSError, ValueError):  # none, or "max"
            continue
    return total


def _group_limits(
    own: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")
) -> Iterator[Path]:
    """Files of the memory that the process's control group may have, and each group that this is in.

    That of a job of SLURM, or of a service of systemd, is several groups deep.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    # a container sees its own group as the root, whatever it is called outside
    for line in ["0::/", "0:memory:/", *lines]:
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        root, name = (groups / "memory", "memory.limit_in_bytes") if kinds else (groups, "memory.max")
        folder = root / path.lstrip("/")
        for group in (folder, *folder.parents):
            yield group / name
            if group == root:
                break
