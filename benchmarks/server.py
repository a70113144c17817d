"""Start-up, memory and latency of a real server process with the embedded model, on this machine.

Messages are the test sentences of `data/red_flags.json`: ordinary complaints and emergencies, some 40 to 150
characters long. Timings are noisy on shared machines: compare figures of one run.

    python -m benchmarks.server [--requests 200] [--replies 40]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backend.core.knowledge import load

_START_LIMIT_S = 120.0
_SEED = 1


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=200, help="requests without a reply")
    parser.add_argument("--replies", type=int, default=40, help="requests with a reply, one at a time")
    options = parser.parse_args()
    rules = load().red_flags
    messages = [case.text for rule in rules for case in (*rule.positive, *rule.negative)]
    random.Random(_SEED).shuffle(messages)
    with server() as (url, process, started):
        print(f"/health after           {wait_for(url + '/health', started):8.2f} s from process start")
        print(f"/ready after            {wait_until_ready(url, started):8.2f} s")
        print(f"memory, idle            {_memory_mib(process.pid, 'VmRSS'):8.0f} MiB resident")
        without = [_timed(url, {"symptoms": text, "reply": False}) for text in messages[: options.requests]]
        _print("without reply", [ms for ms, _ in without])
        _print("  in the service", [answer["timings_ms"]["total"] for _, answer in without])
        written = [_timed(url, {"symptoms": text}) for text in messages[: options.replies]]
        _print("with reply", [ms for ms, _ in written])
        by_model = sum(answer["reply"]["source"] == "model" for _, answer in written)
        print(f"replies by the model    {by_model:5d} of {len(written)}")
        _print("first event of a stream", [_first_event_ms(url, text) for text in messages[: options.replies]])
        print(f"memory, at most         {_memory_mib(process.pid, 'VmHWM'):8.0f} MiB resident")
    return 0


@contextmanager
def server() -> Iterator[tuple[str, subprocess.Popen[bytes], float]]:
    """A server on a free port of this machine: its address, its process, when it was started (monotonic, s)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "backend"],
        env={**os.environ, "DOCTIS_PORT": str(port), "DOCTIS_LOG_LEVEL": "error"},
        cwd=Path(__file__).resolve().parents[1],
        stdout=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}", process, started
    finally:
        process.terminate()
        process.wait(30)


def wait_until_ready(url: str, started: float) -> float:
    """Seconds from `started` until the language model works."""
    return wait_for(url + "/ready", started)


def wait_for(url: str, started: float) -> float:
    """Seconds from `started` until `url` answers 200."""
    while time.monotonic() - started < _START_LIMIT_S:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return time.monotonic() - started
        except (urllib.error.URLError, OSError):
            time.sleep(0.01)
    raise TimeoutError(f"{url} did not answer 200 within {_START_LIMIT_S:.0f} s")


def _post(url: str, body: dict[str, Any]) -> urllib.request.Request:
    return urllib.request.Request(
        url + "/diagnose", json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )


def _timed(url: str, body: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """Milliseconds seen by the client, and the answer."""
    started = time.perf_counter()
    with urllib.request.urlopen(_post(url, body), timeout=60) as response:
        answer: dict[str, Any] = json.load(response)
    return 1000 * (time.perf_counter() - started), answer


def _first_event_ms(url: str, text: str) -> float:
    started = time.perf_counter()
    with urllib.request.urlopen(_post(url, {"symptoms": text, "stream": True}), timeout=60) as response:
        response.readline()
        first = 1000 * (time.perf_counter() - started)
        response.read()
    return first


def _memory_mib(pid: int, field: str) -> float:
    """A memory figure of a process, from Linux's /proc; NaN elsewhere."""
    status = Path(f"/proc/{pid}/status")
    if not status.is_file():
        return float("nan")
    line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) / 1024


def _print(what: str, ms: Sequence[float]) -> None:
    cuts = statistics.quantiles(ms, n=20)
    print(f"{what:<23} {statistics.median(ms):8.1f} ms median, {cuts[18]:.1f} ms at the 95th percentile (n={len(ms)})")


if __name__ == "__main__":
    sys.exit(main())
