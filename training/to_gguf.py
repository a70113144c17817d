"""Hugging Face folder -> F16 GGUF, with the converter of the llama-cpp-python version that serves.

The installed package does not carry `convert_hf_to_gguf.py`; its source distribution does. It is fetched once from
the package index by its pinned version and kept under the run's parent folder.

    python -m training.to_gguf --config training/configs/mini.yaml
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path

from training.artefacts import is_done, read_input, say, write_manifest
from training.config import config_from_args
from training.errors import TrainingError
from training.paths import command_of, gguf_path, model_path

_WANTED = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/")


def main() -> None:
    """Run the stage."""
    run = config_from_args(__doc__ or "")
    source, target = model_path(run), gguf_path(run)
    read_input(source, command_of("pretrain"))
    config = {"outtype": "f16", "model_name": run.name}
    if is_done(target, [source], config, run.seed):
        say("to_gguf: nothing to do")
        return
    converter = fetch_converter(run.folder.parent)
    partial = target.with_suffix(".part")
    command = [
        sys.executable, str(converter), str(source), "--outfile", str(partial), "--outtype", "f16",
        "--model-name", run.name,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
    if done.returncode != 0:
        raise TrainingError(f"the converter failed:\n{done.stderr[-3000:]}")
    partial.replace(target)
    write_manifest(target, "to_gguf", [source], config, run.seed)
    say(f"to_gguf: {target} written")


def fetch_converter(folder: Path) -> Path:
    """The converter script of the installed llama-cpp-python version, unpacked from its source distribution."""
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
        _unpack(archives[0], home)
    return script


def _unpack(archive: Path, home: Path) -> None:
    partial = home.with_name(home.name + ".part")
    with tarfile.open(archive) as tar:
        for member in tar:
            inside = member.name.partition("/vendor/llama.cpp/")[2]
            if inside.startswith(_WANTED) and (member.isfile() or member.isdir()):
                member.name = inside
                tar.extract(member, partial, filter="data")
    partial.replace(home)


if __name__ == "__main__":
    main()
