"""llama.cpp's Hugging Face converter of the installed llama-cpp-python version, and the environment it runs in.

The installed package does not carry `convert_hf_to_gguf.py`; its source distribution does. It is fetched once and kept
under the run's parent folder. It needs other versions than training does (transformers 4, numpy 2.2, protobuf 4), so
it gets a virtual environment of its own (`requirements-convert.txt`), inside its folder and used again. PyTorch is not
installed twice: when the training environment has the pinned version, the new one looks there after its own packages.
Measured on 2 cores: 21 s and 350 MB instead of 42 s and 1.2 GB, and the same GGUF to the byte.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from hashlib import sha256
from importlib import metadata
from pathlib import Path

from training.artefacts import say
from training.errors import TrainingError

REQUIREMENTS = Path(__file__).parents[1] / "requirements-convert.txt"
_WANTED = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/")
_LINK = "training-torch.pth"
_MADE = "made.json"


def fetch_converter(folder: Path) -> Path:
    """The converter script of the installed llama-cpp-python version, unpacked from its source distribution.

    Raises:
        TrainingError: the package index does not give it.
    """
    version = metadata.version("llama-cpp-python")
    home = folder / f"llama.cpp-{version}"
    script = home / "convert_hf_to_gguf.py"
    if script.is_file():
        return script
    say(f"to_gguf: fetching the source distribution of llama-cpp-python {version}")
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:",
            "--dest", scratch, f"llama-cpp-python=={version}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
        archives = list(Path(scratch).glob("*.tar.gz"))
        if done.returncode != 0 or not archives:
            raise TrainingError(f"cannot fetch the converter:\n{done.stderr[-2000:]}")
        unpack(archives[0], home)
    return script


def unpack(archive: Path, home: Path) -> None:
    """The script and the packages it imports, out of a source distribution."""
    partial = home.with_name(home.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            inside = member.name.partition("/vendor/llama.cpp/")[2]
            if inside.startswith(_WANTED) and (member.isfile() or member.isdir()):
                member.name = inside
                tar.extract(member, partial, filter="data")
    partial.replace(home)


def converter_python(home: Path, requirements: Path = REQUIREMENTS) -> Path:
    """The interpreter of the converter's environment in `home`, made now when it is missing or of other versions.

    Raises:
        TrainingError: the environment cannot be made.
    """
    target = home / ".venv"
    python = target / "bin" / "python"
    wanted = expected_environment(requirements)
    made = target / _MADE
    if python.exists() and made.is_file() and json.loads(made.read_text(encoding="utf-8")) == wanted:
        return python
    say("to_gguf: making the converter's environment (once; about half a minute)")
    partial = Path(tempfile.mkdtemp(prefix=".venv.", dir=home))
    try:
        _make(partial, requirements, wanted["torch"])
        (partial / _MADE).write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        with contextlib.suppress(OSError):  # another run made the same one in the meantime
            partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return python


def expected_environment(requirements: Path = REQUIREMENTS) -> dict[str, str | None]:
    """What an environment of today would be made of; one made of the same is used again."""
    return {
        "python": sys.version.split()[0],
        "requirements": sha256(requirements.read_bytes()).hexdigest(),
        "torch": _torch_of_training(requirements),
    }


def _torch_of_training(requirements: Path) -> str | None:
    """Where this interpreter's torch lies when it is the pinned version."""
    pinned = [line.strip() for line in requirements.read_text(encoding="utf-8").splitlines()]
    try:
        torch = metadata.distribution("torch")
    except metadata.PackageNotFoundError:
        return None
    found = f"torch=={torch.version.partition('+')[0]}"
    return str(Path(str(torch.locate_file(""))).resolve()) if found in pinned else None


def _make(folder: Path, requirements: Path, torch: str | None) -> None:
    lines = requirements.read_text(encoding="utf-8").splitlines()
    wanted = folder / "requirements.txt"
    wanted.write_text(
        "\n".join(line for line in lines if torch is None or not line.startswith("torch==")) + "\n", encoding="utf-8"
    )
    python = folder / "bin" / "python"
    # The packages are installed by this interpreter's pip, so the new environment needs none (and no ensurepip).
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "-r", str(wanted)]
    _run([*pip, "--no-deps"] if torch else pip)
    if torch:
        site = next(folder.glob("lib/python*/site-packages"))
        (site / _LINK).write_text(torch + "\n", encoding="utf-8")
    _run([str(python), "-c", "import torch, transformers, sentencepiece, numpy, google.protobuf"])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
    if done.returncode != 0:
        raise TrainingError(f"cannot make the converter's environment: {' '.join(command)}\n{done.stderr[-2000:]}")
