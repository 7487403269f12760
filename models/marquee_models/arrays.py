"""Named arrays on disk (safetensors): read, checked, and written under their final name only when whole.

Knows nothing of models. Every file that leaves this package goes through `save`, so that no file of it can hold a
number that is not finite, and none is ever seen half written. There is no pickle anywhere.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from safetensors import safe_open

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]
Bools = npt.NDArray[np.bool_]
Arrays = dict[str, npt.NDArray[Any]]

DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "int64": "I64",
    "int32": "I32",
    "uint64": "U64",
    "uint32": "U32",
    "uint8": "U8",
    "int8": "I8",
}


class BadArrays(ValueError):
    """A file does not hold what its name promises; the message names file, array and rule."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; renamed over it when the block succeeds, removed when it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.chmod(0o644)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file as a whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Writes JSON as a whole or not at all. NaN and infinity are refused: they are not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def save(path: Path, arrays: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str] | None = None) -> None:
    """Writes `arrays` in C order. Floats must be finite."""
    for name, array in arrays.items():
        if array.dtype.kind == "f":
            require(bool(np.isfinite(array).all()), path, name, "holds a number that is not finite")
    _write(path, arrays, metadata or {})


def save_rows(path: Path, arrays: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str] | None = None) -> None:
    """As `save`, for feature rows and ratings, where NaN means unknown; infinity is still refused."""
    for name, array in arrays.items():
        if array.dtype.kind == "f":
            require(not bool(np.isinf(array).any()), path, name, "holds an infinite number")
    _write(path, arrays, metadata or {})


def _write(path: Path, arrays: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]) -> None:
    # By hand and not by `safetensors.numpy.save_file`, which writes metadata in an order that changes from run to run:
    # equal contents have equal bytes here. Wide types first, so that every array is aligned.
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    for name in order:
        array = arrays[name]
        shape, end = list(array.shape), position + array.nbytes
        header[name] = {"dtype": DTYPES[array.dtype.name], "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            little = arrays[name].astype(arrays[name].dtype.newbyteorder("<"), copy=False)
            file.write(np.ascontiguousarray(little).data)


def load(path: Path, dtypes: Mapping[str, str]) -> Arrays:
    """Reads the arrays named in `dtypes` (others in the file are left alone) and checks their types."""
    arrays: Arrays = {}
    try:
        with safe_open(path, framework="numpy") as opened:
            names = set(opened.keys())
            for name, dtype in dtypes.items():
                require(name in names, path, name, "is missing")
                arrays[name] = opened.get_tensor(name)
                found = arrays[name].dtype
                require(found == np.dtype(dtype), path, name, f"has type {found}, expected {dtype}")
    except FileNotFoundError:
        raise BadArrays(f"{path}: no such file") from None
    except BadArrays:
        raise
    except Exception as error:  # safetensors raises its own type, which is not importable from everywhere
        raise BadArrays(f"{path}: not a safetensors file: {error}") from error
    return arrays


def names_in(path: Path) -> set[str]:
    """Names of the arrays in the file."""
    with safe_open(path, framework="numpy") as opened:
        return set(opened.keys())


def metadata_of(path: Path) -> dict[str, str]:
    """The file's metadata."""
    with safe_open(path, framework="numpy") as opened:
        return dict(opened.metadata() or {})


def require(holds: bool, path: Path | str, name: str, rule: str) -> None:
    """Raises `BadArrays` unless `holds`."""
    if not holds:
        raise BadArrays(f"{path}: `{name}` {rule}")


@dataclass(frozen=True)
class Links:
    """Weighted links from row to column as CSR; each row by descending weight, then by column."""

    offsets: I64
    item: U32
    weight: F32

    def arrays(self) -> Arrays:
        """As the models directory holds them."""
        return {"offsets": self.offsets, "item": self.item, "weight": self.weight}


def check_links(path: Path | str, links: Links, rows: int, columns: int, row_max: int) -> None:
    """Shapes, ranges, and the order within rows."""
    offsets, item, weight = links.offsets, links.item, links.weight
    require(offsets.shape == (rows + 1,), path, "offsets", f"has shape {offsets.shape}, expected ({rows + 1},)")
    require(rows == 0 or offsets[0] == 0, path, "offsets", "does not start at 0")
    require(bool((np.diff(offsets) >= 0).all()), path, "offsets", "decreases")
    require(bool((np.diff(offsets) <= row_max).all()), path, "offsets", f"has a row of more than {row_max} entries")
    require(item.shape == weight.shape == (int(offsets[-1]),), path, "item", "differs in length from offsets or weight")
    require(bool((item < columns).all()), path, "item", f"points beyond row {columns - 1}")
    if len(weight) > 1:
        same_row = np.ones(len(weight) - 1, dtype=bool)
        starts = offsets[1:-1]
        same_row[starts[(starts > 0) & (starts < len(weight))] - 1] = False
        require(bool((np.diff(weight)[same_row] <= 0).all()), path, "weight", "increases within a row")


def links_of_dense(weights: F32, kept: I64, items: int, row_max: int, floor: float = 0.0) -> Links:
    """The largest `row_max` entries above `floor` of every row of a matrix over the item rows `kept`."""
    size = len(kept)
    row_max = min(row_max, size)
    counts = np.zeros(items, dtype=np.int64)
    columns: list[U32] = []
    values: list[F32] = []
    block = max(1, 32_000_000 // max(size, 1))
    for start in range(0, size, block):
        part = weights[start : start + block]
        order = top_columns(part, row_max)
        top = np.take_along_axis(part, order, axis=1)
        keep = top > floor
        counts[kept[start : start + block]] = keep.sum(axis=1)
        columns.append(kept[order[keep]].astype(np.uint32))
        values.append(top[keep].astype(np.float32))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    empty_u, empty_f = np.zeros(0, np.uint32), np.zeros(0, np.float32)
    return Links(offsets, np.concatenate([empty_u, *columns]), np.concatenate([empty_f, *values]))


def top_columns(scores: F32, count: int) -> I64:
    """Columns of the largest `count` values of every row, by descending value, then by column."""
    width = scores.shape[1]
    if count < width:
        chosen = np.sort(np.argpartition(-scores, count - 1, axis=1)[:, :count], axis=1)
    else:
        chosen = np.broadcast_to(np.arange(width), scores.shape)
    order = np.argsort(-np.take_along_axis(scores, chosen, axis=1), axis=1, kind="stable")
    columns: I64 = np.take_along_axis(chosen, order, axis=1)
    return columns


def links_of_sparse(matrix: sp.csr_matrix, row_max: int) -> Links:
    """The largest `row_max` positive entries of every row."""
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    keep = matrix.data > 0
    row, column, value = row[keep], matrix.indices[keep], matrix.data[keep].astype(np.float32)
    order = np.lexsort([column, -value, row])
    row, column, value = row[order], column[order], value[order]
    place = np.arange(len(row)) - np.searchsorted(row, row, side="left")
    top = place < row_max
    counts = np.bincount(row[top], minlength=matrix.shape[0])
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Links(offsets, column[top].astype(np.uint32), value[top])
