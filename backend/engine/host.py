"""How much of this machine the service may really use: CPUs and memory under container limits.

`os.cpu_count()` sees the host's cores even when a container may use half of one, and more threads than CPUs make
llama.cpp many times slower. Order: Render's `RENDER_CPU_COUNT`, cgroup v2 and v1 quotas, affinity.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cpus(environ: Mapping[str, str], cgroup: Path = CGROUP) -> int:
    """Whole CPUs that this process may use, at least 1; a fraction is rounded down."""
    limits = [float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)]
    given = environ.get("RENDER_CPU_COUNT", "")
    if given.replace(".", "", 1).isdigit():
        limits.append(float(given))
    quota = _cgroup_quota(cgroup)
    if quota is not None:
        limits.append(quota)
    return max(1, int(min(limits)))


def _cgroup_quota(cgroup: Path) -> float | None:
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota_us = int((cgroup / "cpu/cpu.cfs_quota_us").read_text())
        period_us = int((cgroup / "cpu/cpu.cfs_period_us").read_text())
        return quota_us / period_us if quota_us > 0 else None
    except (OSError, ValueError):
        return None


def memory_limit_bytes(cgroup: Path = CGROUP) -> int | None:
    """The memory limit of the container in bytes, or None when there is none."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = (cgroup / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < 1 << 60:
            return int(text)
    return None
