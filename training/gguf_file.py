"""What a GGUF file says of itself: its metadata and its tensors' names, shapes and true types; weights are not read.

`general.file_type` keeps saying Q4_K_M when rows that are not multiples of 256 were stored as something else, so the
types are counted from the tensors.
"""

from __future__ import annotations

import shutil
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from training.errors import TrainingError

BLOCK_COLUMNS = 256
_TYPE_NAMES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K",
    13: "Q5_K", 14: "Q6_K", 20: "IQ4_NL", 23: "IQ4_XS", 30: "BF16",
}  # fmt: skip
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor; `columns` is the length of its rows, `dimensions` how many it has."""

    name: str
    columns: int
    dimensions: int
    type: str


@dataclass(frozen=True, slots=True)
class Header:
    """Metadata by key, tensors in file order; the byte where each value starts and where the two parts end."""

    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]
    places: dict[str, int]
    metadata_end: int
    end: int

    def types(self) -> dict[str, int]:
        """How many tensors of each type."""
        return dict(sorted(Counter(tensor.type for tensor in self.tensors).items()))

    def odd_rows(self) -> list[str]:
        """Weights that K-quants cannot store, as `name (columns)`: their rows are not multiples of 256."""
        return [
            f"{tensor.name} ({tensor.columns})"
            for tensor in self.tensors
            if tensor.dimensions > 1 and tensor.columns % BLOCK_COLUMNS
        ]


def read_header(path: Path) -> Header:
    """The header of a GGUF version 2 or 3.

    Raises:
        TrainingError: the file is not one.
    """
    with path.open("rb") as file:
        try:
            return _read(file)
        except (struct.error, KeyError, UnicodeDecodeError) as error:
            raise TrainingError(f"{path}: not a GGUF file ({error})") from None


def set_bool(path: Path, key: str, value: bool) -> None:
    """Set a boolean of the metadata: in place, or with the file written anew when the key is missing.

    Raises:
        TrainingError: the key holds something else.
    """
    header = read_header(path)
    if key not in header.metadata:
        _add_bool(path, header, key, value)
        return
    if not isinstance(header.metadata[key], bool):
        raise TrainingError(f"{path}: {key} is no boolean")
    with path.open("r+b") as file:
        file.seek(header.places[key])
        file.write(struct.pack("<?", value))


def _add_bool(path: Path, header: Header, key: str, value: bool) -> None:
    alignment = int(header.metadata.get("general.alignment", 32))
    pair = struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I?", _BOOL, value)
    partial = path.with_name(path.name + ".keyed")
    with path.open("rb") as source, partial.open("wb") as target:
        magic, version, tensors, pairs = struct.unpack("<4sIQQ", source.read(24))
        target.write(struct.pack("<4sIQQ", magic, version, tensors, pairs + 1))
        target.write(source.read(header.metadata_end - 24) + pair + source.read(header.end - header.metadata_end))
        target.write(b"\0" * (-target.tell() % alignment))
        source.seek(header.end + -header.end % alignment)
        shutil.copyfileobj(source, target, 1 << 20)
    partial.replace(path)


def _read(file: BinaryIO) -> Header:
    magic, version, tensors, pairs = struct.unpack("<4sIQQ", file.read(24))
    if magic != b"GGUF" or version not in (2, 3):
        raise KeyError(f"magic {magic!r}, version {version}")
    metadata: dict[str, Any] = {}
    places: dict[str, int] = {}
    for _ in range(pairs):
        key = _string(file)
        (kind,) = struct.unpack("<I", file.read(4))
        places[key] = file.tell()
        metadata[key] = _value(file, kind)
    metadata_end = file.tell()
    found = tuple(_tensor(file) for _ in range(tensors))
    return Header(metadata, found, places, metadata_end, file.tell())


def _string(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    return file.read(length).decode("utf-8", "replace")


def _value(file: BinaryIO, kind: int) -> Any:  # noqa: ANN401 - whatever the file holds
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        inner, count = struct.unpack("<IQ", file.read(12))
        if inner in (_STRING, _ARRAY):
            return [_value(file, inner) for _ in range(count)]
        form = f"<{count}{_SCALARS[inner]}"
        return list(struct.unpack(form, file.read(struct.calcsize(form))))
    form = f"<{_SCALARS[kind]}"
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def _tensor(file: BinaryIO) -> Tensor:
    name = _string(file)
    (dimensions,) = struct.unpack("<I", file.read(4))
    shape = struct.unpack(f"<{dimensions}Q", file.read(8 * dimensions))
    kind, _offset = struct.unpack("<IQ", file.read(12))
    return Tensor(name, shape[0], dimensions, _TYPE_NAMES.get(kind, f"type {kind}"))
