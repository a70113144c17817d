"""A fine-tune as a person makes it: one command from a base and rows to published files, which the service then serves.

Only the bases are small: the architectures, tokenizers and templates of Phi-3-mini and TinyLlama-Chat, nf4 adapters,
the real converter, the gate (with margins that random weights pass), a hub and an S3 on this machine.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

pytest.importorskip("moto", reason="needs the training environment")

from backend.core.prompt import Style
from backend.engine.manifest import sha256_of
from tests.engine.conftest import eventually
from tests.http.conftest import serve
from tests.training.conftest import ROOT
from tests.training.hub import TOKEN, UploadHub, serve_upload_hub
from tests.training.s3 import Storage, serve_s3
from tests.training.tuned import BASES, share_converter
from training.__main__ import State, stages_of, state_of
from training.config import load_tune
from training.paths import adapter_path, comparison_path, evaluation_path, quantized_path

pytestmark = pytest.mark.training

_REPO, _BUCKET = "someone/doctis-ai-tuned", "models"
_OWN_ROWS = (
    ("J'ai mal au dos depuis que j'ai porté un meuble.", "Un tour de reins passe le plus souvent en quelques jours."),
    ("Mon fils a de la fièvre depuis ce matin.", "Surveillez son comportement et faites-le boire souvent."),
    ("Je tousse depuis deux semaines.", "Une toux qui dure mérite l'avis de votre médecin."),
    ("J'ai le nez bouché et je mouche clair.", "Un rhume guérit en une semaine environ, avec du repos."),
    ("Ça me brûle quand j'urine.", "Il peut s'agir d'une infection urinaire, à montrer à un médecin."),
    ("J'ai des plaques qui grattent sur les bras.", "Notez ce qui a changé : un savon, un aliment, un médicament."),
)


@dataclass(frozen=True)
class Places:
    """Where the model is sent, and the variables that lead the commands there."""

    hub: UploadHub
    s3: Storage

    @property
    def environment(self) -> dict[str, str]:
        """For the commands of training; one thread, because models this small are slower on several."""
        return {
            **os.environ, **self.s3.environment, "OMP_NUM_THREADS": "1", "RENDER_CPU_COUNT": "1",
            "ACCELERATE_USE_CPU": "true", "HF_ENDPOINT": self.hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1",
        }  # fmt: skip


@pytest.fixture(scope="module")
def places() -> Iterator[Places]:
    """An empty hub and an S3 with an empty bucket."""
    with serve_upload_hub() as hub, serve_s3() as storage:
        storage.client().create_bucket(Bucket=_BUCKET)
        yield Places(hub, storage)


def write_config(folder: Path, style: Style) -> Path:
    """A base, rows of one's own, and a configuration that mixes in our consultations and publishes to both places."""
    maker, gguf_name = BASES[style]
    rows = [{"instruction": "Réponds au patient.", "input": asked, "output": said} for asked, said in _OWN_ROWS]
    own = folder / "own.jsonl"
    own.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    content = {
        "name": f"doctis-ai-{style.value}", "folder": str(folder / "runs" / style.value),
        "base": {"model": str(maker(folder / "base")), "style": style.value, "gguf_name": gguf_name, "licence": "mit"},
        "prepare": {
            "sources": [
                {"kind": "jsonl", "path": str(own), "licence": "ours"},
                {"kind": "synthesised", "licence": "MIT",
                 "synthesise": {"consultations": 16, "invented": 4, "held_out": 10}},
            ],
        },
        "qlora": {"batch": 2, "accumulation": 2, "epochs": 1, "steps": 4, "save_every_steps": 2,
                  "evaluate_every_steps": 2, "longest_tokens": 2000, "learning_rate": 0.002},
        "quantize": {"compare_tokens": 2_000},
        "evaluate": {"items": 3, "replies": 1, "dose_questions": 1, "reply_tokens": 8, "loss_margin": 1.0,
                     "accepted_margin": 1.0, "french_margin": 1.0, "stop_rate_margin": 1.0,
                     "contradictions_margin": 1, "dosage_refusal_margin": 1.0, "most_kl": 1.0},
        "publish": {"destinations": [f"hf://{_REPO}-{style.value}", f"s3://{_BUCKET}/{style.value}"]},
    }  # fmt: skip
    path = folder / "tune.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("style", [Style.PHI3, Style.ZEPHYR])
def test_from_rows_to_an_answer(style: Style, places: Places, tmp_path: Path) -> None:
    """Every stage, then the settings that `publish` prints make the real service download and use the model."""
    config = write_config(tmp_path, style)
    run = load_tune(config)
    run.folder.parent.mkdir()
    share_converter(run.folder.parent)
    command = [sys.executable, "-m", "training", "--config", str(config)]
    done = subprocess.run(command, cwd=ROOT, env=places.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]

    assert {stage: state_of(run, stage) for stage in stages_of(run)} == dict.fromkeys(stages_of(run), State.DONE)
    assert (adapter_path(run) / "adapter_model.safetensors").is_file()
    assert json.loads(evaluation_path(run).read_text(encoding="utf-8"))["passed"] is True
    assert set(json.loads(comparison_path(run).read_text(encoding="utf-8"))["quantizations"]) == set(run.quantize.types)

    served = quantized_path(run, "Q4_K_M")
    in_bucket = places.s3.client().get_object(Bucket=_BUCKET, Key=f"{style.value}/{served.name}")["Body"].read()
    assert in_bucket == served.read_bytes()

    on_hub = done.stdout[done.stdout.index(f"# hf://{_REPO}") :].split("# aws s3 cp")[0]
    settings = dict(line.split("=", 1) for line in shlex.split(on_hub, comments=True))
    folder = tmp_path / "service"
    folder.mkdir()
    settings |= {"DOCTIS_MODEL_DIR": str(folder / "models"), "DOCTIS_CONTEXT_TOKENS": "2048", "HF_TOKEN": TOKEN}
    with serve(folder, **settings, NO_PROXY="*") as server:
        eventually(lambda: httpx.get(f"{server.url}/ready").status_code == 200)
        assert httpx.get(f"{server.url}/ready").json()["model"] == run.name
        asked = {"symptoms": "J'ai de la fièvre et je tousse depuis trois jours.", "age": 40}
        answer = httpx.post(f"{server.url}/diagnose", json=asked, timeout=60).json()
    assert sha256_of(folder / "models" / served.name) == sha256_of(served)
    assert answer["reply"]["text"]
    assert answer["versions"]["model"] == run.name
