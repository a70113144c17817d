"""The Colab notebook: it only calls the scripts, keeps no output, and runs from top to bottom."""

from __future__ import annotations

import ast
import json
import os
import re
import socket
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.training.conftest import ROOT, write_config
from training.config import SCRATCH_STAGES, TuneRun, load_config

NOTEBOOK = ROOT / "training" / "doctis_finetune_colab.ipynb"
# What Colab has beside the standard library; our own packages live in the environment that the notebook makes.
FOUND_ON_COLAB = {"IPython", "google", "yaml"}


def cells(kind: str) -> list[dict[str, Any]]:
    """The cells of a kind."""
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == kind]


def sources() -> list[str]:
    """The code of each cell."""
    return ["".join(cell["source"]) for cell in cells("code")]


def test_no_output_is_stored() -> None:
    """Outputs hold names, paths and sometimes secrets of whoever ran it last."""
    assert [cell["id"] for cell in cells("code") if cell["outputs"] or cell["execution_count"] is not None] == []


def test_it_only_calls_the_scripts() -> None:
    """No cell imports the code of the project or a training library: what it does, a terminal can do."""
    found = set()
    for source in sources():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module).split(".")[0])
    assert found - set(sys.stdlib_module_names) == FOUND_ON_COLAB


def test_the_modules_that_it_runs_exist() -> None:
    """Every `-m`."""
    named = re.findall(r'"-m", "([\w.]+)"', "\n".join(sources()))
    assert {"training", "training.publish", "backend"} == set(named)
    for name in named:
        path = ROOT / name.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), name


def test_the_configurations_that_it_offers_are_fine_tunes() -> None:
    """Each is in the repository and can be read."""
    offered = set(re.findall(r"training/configs/[\w.-]+\.yaml", "\n".join(sources())))
    assert len(offered) >= 2
    assert all(isinstance(load_config(ROOT / name), TuneRun) for name in offered)


def test_the_target_that_installs_exists() -> None:
    """The environment is made by the Makefile, with the locked versions."""
    (target,) = re.findall(r'"make", "([^"]+)"', "\n".join(sources()))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    venv = re.search(r"^TRAIN_VENV := (\S+)$", makefile, re.MULTILINE)
    assert venv
    assert target == f"{venv[1]}/.train"
    assert "\n$(TRAIN_VENV)/.train:" in makefile


def test_no_setting_of_the_server_is_made_up() -> None:
    """The server refuses to start beside a DOCTIS_ variable that it does not know."""
    from backend.settings import variables  # noqa: PLC0415

    assert set(re.findall(r"DOCTIS_\w+", "\n".join(sources()))) <= variables()


def execute(folder: Path, monkeypatch: pytest.MonkeyPatch, config: Path, publish_to: str) -> str:
    """Run every cell in a kernel of this interpreter, on the CPU; what the cells printed."""
    nbclient = pytest.importorskip("nbclient", reason="needs the training environment")
    nbformat = pytest.importorskip("nbformat")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {
        "NOTEBOOK_CONFIG": str(config), "NOTEBOOK_PYTHON": sys.executable, "NOTEBOOK_CPU": "1",
        "NOTEBOOK_PORT": str(port), "NOTEBOOK_PUBLISH_TO": publish_to, "OMP_NUM_THREADS": "1", "RENDER_CPU_COUNT": "1",
        "NO_PROXY": "127.0.0.1", "IPYTHONDIR": str(folder / "ipython"), "JUPYTER_PLATFORM_DIRS": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    for name in [name for name in os.environ if name.startswith("DOCTIS_")]:
        monkeypatch.delenv(name)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(ROOT)}})
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    texts = [output.get("text") or output.get("data", {}).get("text/markdown", "") for output in outputs]
    return "".join(texts)


@pytest.mark.training
def test_it_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At smoke size: every stage, the card, the upload into a folder, and an answer of the server."""
    config = write_config(tmp_path)
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    content["evaluate"] = {
        "accepted_whole": 0, "first_cause_named": 0, "most_urgency_contradictions": 1000, "most_kl": 100,
    }  # fmt: skip
    config.write_text(yaml.safe_dump(content), encoding="utf-8")
    converter = f"llama.cpp-{metadata.version('llama-cpp-python')}"
    if (ROOT / "runs" / converter).is_dir():
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / converter).symlink_to(ROOT / "runs" / converter)
    printed = execute(tmp_path, monkeypatch, config, str(tmp_path / "out"))
    for stage in SCRATCH_STAGES:
        assert f"training: {stage} took" in printed
    for told in ("publish      not done", "Not a medical device", "5 of 5 files sent", "DOCTIS_MODEL_PATH="):
        assert told in printed
    assert (tmp_path / "out" / "doctis-ai-tiny-Q4_K_M.gguf").is_file()
    assert re.search(r"^(model|template): \w+", printed, re.MULTILINE)


@pytest.mark.training
def test_a_failing_command_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next cells are not run as if nothing had happened."""
    config = tmp_path / "wrong.yaml"
    config.write_text(f"folder: {tmp_path}/runs/wrong\n", encoding="utf-8")
    exceptions = pytest.importorskip("nbclient.exceptions")
    with pytest.raises(exceptions.CellExecutionError, match="exit code 2: "):
        execute(tmp_path, monkeypatch, config, "")
