"""The losses of a training as a picture and as numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_curve(history: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, list[list[float]]]:
    """Write `loss.png` and `losses.json` ([step, nats per token] for each curve); the same losses."""
    losses = {
        name: [[int(entry["step"]), float(entry[key])] for entry in history if key in entry]
        for name, key in (("train", "loss"), ("held_out", "eval_loss"))
    }
    (folder / "losses.json").write_text(json.dumps(losses) + "\n", encoding="utf-8")
    # Slow to import, and drawing needs no window.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, label in (("train", "training"), ("held_out", "held out")):
        steps, values = [point[0] for point in losses[name]], [point[1] for point in losses[name]]
        axes.plot(steps, values, label=label, marker="o" if name == "held_out" else None, markersize=3)
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel("loss, nats per answer token")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(folder / "loss.png", dpi=120, metadata={"Software": None})
    return losses
