"""A clean cohort as the bytes of an HDF5 file, and back."""

from __future__ import annotations

import io
import json
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from henaw.data.cohort import PARTICIPANT

_CHUNK_ROWS = 65_536


def encode(table: pd.DataFrame, facts: dict[str, Any]) -> bytes:
    """A participant table and JSON-able facts as an HDF5 image: equal ones give equal bytes.

    ``participants`` (rows, 16) bytes, ``numbers`` (columns, rows) float64, ``texts`` (columns, rows) int32 positions in
    the column's list of values (-1 = missing), ``header`` JSON in UTF-8: names in order, lists of values, facts. All
    are in chunks, which HDF5 keeps fletcher32 of, and little-endian, whatever the machine.

    Raises:
        ValueError: no rows, rows not numbered from 0, or columns of another dtype than float64 and str.
    """
    if not len(table) or not table.index.equals(pd.RangeIndex(len(table))):
        raise ValueError("a cohort to cache has rows, numbered from 0")
    texts = {name: pd.factorize(table[name]) for name in table if table[name].dtype == "str" and name != PARTICIPANT}
    numbers = [name for name in table if name != PARTICIPANT and name not in texts]
    if not all(table[name].dtype == np.float64 for name in numbers):
        raise ValueError("a cohort to cache has columns of float64 and str alone")
    header = {
        "columns": list(table.columns),
        "numbers": numbers,
        "texts": {name: values.tolist() for name, (_, values) in texts.items()},
        "facts": facts,
    }
    pseudonyms = bytes.fromhex("".join(table[PARTICIPANT].tolist()))
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        _write(file, "participants", np.frombuffer(pseudonyms, np.uint8).reshape(len(table), -1))
        _write(file, "numbers", table[numbers].to_numpy("<f8").T)
        _write(file, "texts", np.array([codes for codes, _ in texts.values()], "<i4"))
        _write(file, "header", np.frombuffer(json.dumps(header, ensure_ascii=False).encode(), np.uint8))
    return image.getvalue()


def _write(file: h5py.File, name: str, values: NDArray[Any]) -> None:
    chunks = tuple(min(size, _CHUNK_ROWS) for size in values.shape)  # without chunks HDF5 keeps no checksum
    file.create_dataset(name, data=values, chunks=chunks, fletcher32=True)


def decode(image: bytes) -> tuple[pd.DataFrame, dict[str, Any]] | None:
    """The table and facts of an HDF5 image, None where it is not one."""
    try:
        with h5py.File(io.BytesIO(image), "r") as file:
            header = json.loads(file["header"][()].tobytes())
            pseudonyms, numbers, codes = (file[name][()] for name in ("participants", "numbers", "texts"))
        columns: dict[str, Any] = dict(zip(header["numbers"], numbers, strict=True))
        columns[PARTICIPANT] = _hexadecimal(pseudonyms)
        for (name, values), positions in zip(header["texts"].items(), codes, strict=True):
            columns[name] = pa.array([*values, None], pa.string()).take(np.where(positions < 0, len(values), positions))
        return pa.table({name: columns[name] for name in header["columns"]}).to_pandas(), header["facts"]
    except (OSError, KeyError, ValueError, TypeError, IndexError, RuntimeError, AttributeError):
        return None


def _hexadecimal(rows: NDArray[np.uint8]) -> pa.Array:
    """Each row of bytes (n, width) as 2·width digits; a list of n Python strings would take half the loading time."""
    digits = pa.py_buffer(rows.tobytes().hex().encode())
    fixed = pa.binary(2 * rows.shape[1])
    return pa.FixedSizeBinaryArray.from_buffers(fixed, len(rows), [None, digits]).cast(pa.binary()).cast(pa.string())
