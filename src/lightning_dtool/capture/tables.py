"""The content of tables and images of other libraries, which are never imported here."""

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

_BYTES_OF_A_TEXT = 32
"""Number of bytes that a text in a column counts as. Columns of texts are hashed by pandas."""

_BYTES_OF_AN_OBJECT = 200
"""Number of bytes that any other object in a column counts as."""

_OF_PANDAS = frozenset({"_mgr", "_item_cache", "_attrs", "_flags", "_name", "_cacher", "_is_copy"})
"""Attributes that every DataFrame or Series may have."""


@dataclass(frozen=True)
class Block:
    """Content that is read when it is known to be small enough.

    Attributes:
        size: Its size, in bytes.
        header: What identifies its form: type, shape, names.
        read: Returns bytes, an array, or a list of Python values.
    """

    size: int
    header: str
    read: Callable[[], Any]


def blocks_of(value: Any) -> dict[str, Block] | None:
    """Return the content of a table or an image by column. None for any other object.

    Args:
        value: A DataFrame or Series of pandas or polars, a table of pyarrow or of Hugging Face's datasets, or an image
            of Pillow that is in memory.
    """
    for cls in type(value).__mro__:
        reader = _READERS.get((cls.__module__.partition(".")[0], cls.__name__))
        if reader is not None:
            return reader(value)
    return None


# -- pandas ---------------------------------------------------------------------------------------


def _pandas_frame(frame: Any) -> dict[str, Block]:
    names = [str(name) for name in frame.columns]
    columns = {f"[{index}] {name}": _pandas_column(frame.iloc[:, index]) for index, name in enumerate(names)}
    labels = {"index": _pandas_column(frame.index), "columns": _pandas_column(frame.columns)}
    return {**labels, **columns, **_beside_pandas(frame)}


def _pandas_series(series: Any) -> dict[str, Block]:
    values = {f"values {series.name!r}": _pandas_column(series)}
    return {"index": _pandas_column(series.index), **values, **_beside_pandas(series)}


def _beside_pandas(table: Any) -> dict[str, Block]:
    """Return what pandas, a class derived from its own, or the user keeps beside the values."""
    kept = {name: value for name, value in vars(table).items() if name not in _OF_PANDAS}
    if table.attrs:
        kept["attrs"] = table.attrs
    return {"attributes": Block(_BYTES_OF_AN_OBJECT * len(kept), "", lambda: kept)} if kept else {}


def _pandas_index(index: Any) -> dict[str, Block]:
    return {f"values {index.name!r}": _pandas_column(index)}


def _pandas_column(column: Any) -> Block:
    header = f"{column.dtype} {len(column)}"
    if hasattr(column, "levels") or not hasattr(column, "cat"):  # an index
        header += f" {list(getattr(column, 'names', []))!r}"
    if isinstance(column.dtype, np.dtype) and not column.dtype.hasobject:
        return Block(column.dtype.itemsize * len(column), header, column.to_numpy)
    if str(column.dtype) == "category":
        values = column.cat if hasattr(column, "cat") else column
        header = f"{header} {values.ordered} {values.categories.dtype} {list(values.categories)!r}"
        return Block(4 * len(column) + len(header), header, lambda: np.asarray(values.codes))
    pandas = sys.modules["pandas"]
    if pandas.api.types.infer_dtype(column, skipna=True) == "string":
        texts = column.to_numpy(dtype=object)

        def content() -> Any:
            hashes, missing = pandas.util.hash_array(texts), np.asarray(column.isna())
            # Their hashes are equal, but None, NaN and NA are different.
            kinds = [type(value).__name__ for value in texts[missing]]
            return [hashes, np.flatnonzero(missing), kinds] if kinds else hashes

        return Block(_BYTES_OF_A_TEXT * len(column), header, content)
    return Block(_BYTES_OF_AN_OBJECT * len(column), header, column.tolist)


# -- polars, pyarrow and datasets -----------------------------------------------------------------


def _polars_frame(frame: Any) -> dict[str, Block]:
    def content() -> bytes:
        sink = io.BytesIO()
        frame.rechunk().write_ipc_stream(sink, compression="uncompressed")
        return sink.getvalue()

    return {"columns": Block(int(frame.estimated_size()), str(frame.schema), content)}


def _arrow_table(table: Any) -> dict[str, Block]:
    def content() -> bytes:
        arrow = sys.modules["pyarrow"]
        plain = table.replace_schema_metadata(None)
        sink = arrow.BufferOutputStream()
        with arrow.ipc.new_stream(sink, plain.schema) as writer:
            writer.write(plain.combine_chunks() if hasattr(plain, "combine_chunks") else plain)
        return bytes(sink.getvalue())

    names = ", ".join(f"{name} {kind}" for name, kind in zip(table.schema.names, table.schema.types, strict=True))
    return {"columns": Block(int(table.nbytes), names, content)}


def _hugging_face(dataset: Any) -> dict[str, Block]:
    parts = {"data": dataset._data, "indices": dataset._indices}
    found = {name: _arrow_table(part.table) for name, part in parts.items() if part is not None}
    return {f"{name}.{column}": block for name, blocks in found.items() for column, block in blocks.items()}


# -- Pillow ---------------------------------------------------------------------------------------


def _image(image: Any) -> dict[str, Block] | None:
    if getattr(image, "_im", None) is None:  # reading its file is left to the training
        return None
    width, height = image.size
    palette = image.getpalette() if image.mode in ("P", "PA") else None
    size = width * height * max(len(image.getbands()), 4)
    return {"pixels": Block(size, f"{image.mode} {image.size} {palette}", image.tobytes)}


_READERS: dict[tuple[str, str], Callable[[Any], dict[str, Block] | None]] = {
    ("pandas", "DataFrame"): _pandas_frame,
    ("pandas", "Series"): _pandas_series,
    ("pandas", "Index"): _pandas_index,
    ("polars", "DataFrame"): _polars_frame,
    ("polars", "Series"): lambda series: _polars_frame(series.to_frame()),
    ("pyarrow", "Table"): _arrow_table,
    ("pyarrow", "RecordBatch"): _arrow_table,
    ("datasets", "Dataset"): _hugging_face,
    ("PIL", "Image"): _image,
}
"""The function that returns the content, by package and class."""
