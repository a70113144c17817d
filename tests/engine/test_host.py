"""How many CPUs and how much memory the service believes that it has, from made-up limits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backend.engine.host import memory_limit_bytes, usable_cpus

AFFINITY = 16
"""CPUs that the process may be scheduled on, in every test here."""


@pytest.fixture(autouse=True)
def _sixteen_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(AFFINITY)), raising=False)


def write_limits(folder: Path, files: dict[str, str]) -> Path:
    """A cgroup folder with these files."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def v1_quota(quota_us: int, period_us: int = 100_000) -> dict[str, str]:
    """The two files of a cgroup v1 quota."""
    return {"cpu/cpu.cfs_quota_us": f"{quota_us}\n", "cpu/cpu.cfs_period_us": f"{period_us}\n"}


def test_cpus_without_any_limit_are_those_of_the_affinity(tmp_path: Path) -> None:
    """No cgroup files, no variable: as many as the process may be scheduled on."""
    assert usable_cpus({}, tmp_path) == AFFINITY


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 1),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, AFFINITY),
        ({"cpu.max": "6400000 100000\n"}, AFFINITY),
        ({"cpu.max": "nonsense\n"}, AFFINITY),
        (v1_quota(300_000), 3),
        (v1_quota(50_000), 1),
        (v1_quota(-1), AFFINITY),
        ({"cpu.max": "nonsense\n", **v1_quota(300_000)}, 3),
        ({"cpu.max": "200000 100000\n", **v1_quota(300_000)}, 2),
    ],
)
def test_cpus_follow_the_cgroup_quota(files: dict[str, str], expected: int, tmp_path: Path) -> None:
    """Whole CPUs of a v2 or v1 quota, rounded down but at least one, and never more than there are."""
    assert usable_cpus({}, write_limits(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [("4", 4), ("0.5", 1), ("1.9", 1), ("64", AFFINITY), ("", AFFINITY), ("many", AFFINITY), ("-2", AFFINITY)],
)
def test_cpus_follow_the_count_that_render_gives(given: str, expected: int, tmp_path: Path) -> None:
    """`RENDER_CPU_COUNT` limits, fractions are rounded down, and what is no number is ignored."""
    assert usable_cpus({"RENDER_CPU_COUNT": given}, tmp_path) == expected


@pytest.mark.parametrize(("render", "quota_us"), [("3", 500_000), ("5", 300_000)])
def test_cpus_are_the_least_of_all_limits(render: str, quota_us: int, tmp_path: Path) -> None:
    """A small quota wins over a large `RENDER_CPU_COUNT`, and the other way round."""
    folder = write_limits(tmp_path, {"cpu.max": f"{quota_us} 100000"})
    assert usable_cpus({"RENDER_CPU_COUNT": render}, folder) == 3


def test_cpus_of_this_machine_are_at_least_one() -> None:
    """The real cgroup folder can be read, whatever it holds."""
    assert 1 <= usable_cpus(os.environ) <= AFFINITY


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory.max": "536870912\n"}, 512 << 20),
        ({"memory.max": "max\n"}, None),
        ({"memory/memory.limit_in_bytes": "268435456\n"}, 256 << 20),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ({"memory.max": "max\n", "memory/memory.limit_in_bytes": "268435456\n"}, 256 << 20),
        ({"memory.max": "536870912\n", "memory/memory.limit_in_bytes": "268435456\n"}, 512 << 20),
        ({}, None),
    ],
)
def test_memory_limit_is_the_one_of_the_cgroup(
    files: dict[str, str], expected: int | None, tmp_path: Path
) -> None:  # fmt: skip
    """v2 first, then v1; "max", v1's huge number and no file at all mean that there is no limit."""
    assert memory_limit_bytes(write_limits(tmp_path, files)) == expected
