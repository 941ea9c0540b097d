"""What memory a process may have."""

import pytest

from experiments.planning import machines


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A system whose process is in a group of a scheduler's."""
    folder = tmp_path / "cgroup"
    own = tmp_path / "own"
    limits = machines._group_limits
    monkeypatch.setattr(machines, "_group_limits", lambda: limits(own, folder))
    return own, folder


def limit(folder, value, name="memory.max"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"{value}\n")


@pytest.mark.parametrize(
    ("lines", "place", "name"),
    [
        ("0::/slurm/job_7/step_0\n", "slurm/job_7", "memory.max"),
        ("0::/slurm/job_7/step_0\n", "slurm/job_7/step_0", "memory.max"),
        ("0::/elsewhere\n", ".", "memory.max"),
        ("4:cpu,memory:/job\n1:name=systemd:/x\n", "memory/job", "memory.limit_in_bytes"),
        ("", ".", "memory.max"),
    ],
)
def test_the_least_of_all_groups_around_a_process_counts(groups, lines, place, name):
    own, folder = groups
    own.write_text(lines)
    limit(folder / "slurm" / "other", 5)
    limit(folder / "slurm", "max")
    assert machines._host_memory() > 5_000_000
    limit(folder / place, 5_000_000, name)
    assert machines._host_memory() == 5_000_000
