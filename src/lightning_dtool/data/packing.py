"""Packing of a folder into a frozen dataset."""

import csv as csv_format
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from lightning_dtool._public import public
from lightning_dtool.errors import ConfigurationError, DatasetNotFoundError, MetadataKeyError, UnsafeDatasetError
from lightning_dtool.store import DatasetWriter

CATEGORY = "category"
_PATH_COLUMNS = ("path", "relpath", "filename")


@public
def pack(
    folder: str | os.PathLike[str],
    base_uri: str | os.PathLike[str],
    name: str,
    *,
    csv: str | os.PathLike[str] | None = None,
    overlays: Mapping[str, Mapping[str, Any]] | None = None,
    annotations: Mapping[str, Any] | None = None,
    tags: Sequence[str] = (),
    description: str = "",
    project: str = "",
    owner_name: str = "",
    owner_email: str = "",
    owner_username: str = "",
    owner_orcid: str = "",
    funders: Sequence[str] = (),
    confidential: bool = False,
    personally_identifiable_information: bool = False,
    progress: bool = True,
) -> str:
    """Pack a folder into a frozen dataset.

    Without `csv`, the folders at the first level are the classes: `oak/1.png` gets the value `oak` in the overlay
    `category`. There is no such overlay if a file lies outside these folders. With `csv`, each further column of the
    table becomes an overlay, and folders are only part of the paths.

    The dataset is a copy. To write items that are not files on this machine, or items that are produced one at a time,
    use `DatasetWriter`.

    Args:
        folder: The folder. Hidden files and folders (`.DS_Store`, `.git`) are left out.
        base_uri: Where the dataset is created: a folder, or the base URI of a store such as `s3://bucket`.
        name: The dataset's name: 1 to 80 ASCII letters, digits, `-`, `_` and `.`.
        csv: A table in UTF-8 with a header line and one line per file. The column `path`, `relpath` or `filename`, or
            else the first column, holds the path of the file in the folder. Each other column becomes an overlay of
            ints if all fields are whole numbers, of floats if all are numbers, of bools if all are true or false,
            else of strings; an empty field becomes null. Each file needs a line, and each line a file. The table may
            lie in the folder, but it is not packed.
        overlays: Overlays by name, each with a value for every file by its path in the folder.
        annotations: Annotations by name. The values must be strict JSON.
        tags: The tags of the dataset.
        description: A description of the data. Like the following fields, it is written into README.yml.
        project: The project that the data belongs to.
        owner_name: The name of the person who is responsible for the data.
        owner_email: The owner's e-mail address.
        owner_username: The owner's user name.
        owner_orcid: The owner's ORCID iD.
        funders: The funders of the data.
        confidential: Whether the data is confidential. Default: False.
        personally_identifiable_information: Whether the data identifies persons. Default: False.
        progress: Show a progress bar if the output is a terminal. Default: True.

    Returns:
        The URI of the frozen dataset.

    Raises:
        DatasetNotFoundError: If the folder does not exist, or holds no files.
        MetadataKeyError: If a file has no line in the table or no value in an overlay, or if one of them names a file
            that is not in the folder.
        ConfigurationError: If the table cannot be read, or an overlay is given twice.
        UnsafeDatasetError: If a symbolic link leads out of the folder.
        InvalidNameError: If dtool does not allow a name, before anything is written.
        DatasetExistsError, InvalidURIError, StoreError: If the dataset cannot be written.

    Example:
        ```python
        uri = pack("photographs", "data", "leaves-of-may", description="Leaves of 12 trees, photographed in May")
        ```
    """
    root = Path(folder)
    table = None if csv is None else Path(csv)
    files = _files(root, leave_out=table)
    values = _all_overlays(files, root, table, overlays or {})
    readme = {
        "description": description,
        "project": project,
        "confidential": confidential,
        "personally_identifiable_information": personally_identifiable_information,
        "owners": [
            {"name": owner_name, "email": owner_email, "username": owner_username, "orcid": owner_orcid},
        ],
        "funders": list(funders),
        "creation_date": date.today().isoformat(),
    }
    with DatasetWriter(name, os.fspath(base_uri)) as writer:
        for overlay, by_relpath in values.items():
            writer.put_overlay(overlay, by_relpath)
        for annotation, value in (annotations or {}).items():
            writer.put_annotation(annotation, value)
        for tag in tags:
            writer.put_tag(tag)
        writer.put_readme("---\n" + yaml.safe_dump(readme, sort_keys=False, allow_unicode=True))
        with _progress(len(files), name, enabled=progress) as advance:
            writer.put_files(files, on_file=advance)
        return writer.commit().uri


def read_table(path: Path) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Read a CSV table with values for each file.

    Args:
        path: The table; see `pack`.

    Returns:
        The paths of the files in the order of the rows, and for each other column its values by path.

    Raises:
        ConfigurationError: If there is no header, a row has a different number of fields, or a name or path occurs
            twice.
    """

    def refuse(problem: str) -> ConfigurationError:
        return ConfigurationError(f"{problem}. Expected a header line and one line per file, in UTF-8.", path=path)

    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = [row for row in csv_format.reader(lines, strict=True) if row]
    except (OSError, UnicodeDecodeError, csv_format.Error) as error:
        raise refuse(f"cannot be read ({error})") from error
    if len(rows) < 2:
        raise refuse(f"has {len(rows)} lines")
    header = [column.strip() for column in rows[0]]
    if "" in header or len(set(header)) != len(header):
        raise refuse(f"has a column without a name, or two columns with the same name: {header}")
    key = next((header.index(column) for column in _PATH_COLUMNS if column in header), 0)
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise refuse(f"row {number} has {len(row)} fields and the header {len(header)}")
    relpaths = [PurePosixPath(row[key].strip().replace("\\", "/")).as_posix() for row in rows[1:]]
    if len(set(relpaths)) != len(relpaths):
        twice = next(relpath for relpath in relpaths if relpaths.count(relpath) > 1)
        raise refuse(f"has two rows for {twice}")
    columns = {}
    for index, column in enumerate(header):
        if index != key:
            columns[column] = dict(zip(relpaths, typed([row[index] for row in rows[1:]]), strict=True))
    return relpaths, columns


def typed(texts: Sequence[str]) -> list[Any]:
    """Convert a column to the narrowest type that all of its fields have; an empty field becomes None.

    Example:
        >>> typed(["1", "2.5", ""])
        [1.0, 2.5, None]
        >>> typed(["true", "False"]), typed(["007", "1"])
        ([True, False], ['007', '1'])
    """
    stripped = [text.strip() for text in texts]
    present = [text for text in stripped if text]
    for convert in (_whole, _number, _truth):
        if present and all(convert(text) is not None for text in present):
            return [convert(text) if text else None for text in stripped]
    return [text or None for text in stripped]


def _whole(text: str) -> int | None:
    """Read a whole number of at most 8 bytes; None for any other text, including `007`, which is an identifier."""
    digits = text.removeprefix("-")
    is_whole = digits.isascii() and digits.isdigit() and str(int(text)) == text
    return int(text) if is_whole and abs(int(text)) < 2**63 else None


def _number(text: str) -> float | None:
    """Read a decimal number; None for any other text, including `nan`, `inf`, `1_000` and `007`."""
    digits = text.removeprefix("-").removeprefix("+")
    if (
        not digits.isascii()
        or not set(digits) <= set("0123456789.eE+-")
        or (digits[:1] == "0" and digits[1:2].isdigit())
    ):
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) != float("inf") else None


def _truth(text: str) -> bool | None:
    return {"true": True, "false": False}.get(text.lower())


def _files(root: Path, leave_out: Path | None) -> dict[str, str]:
    """Find the files below a folder, by their relative path, in sorted order."""
    if not root.is_dir():
        raise DatasetNotFoundError("is not a folder: there is nothing to pack.", path=root)
    inside = root.resolve()
    table = None if leave_out is None else str(leave_out.resolve())
    found = {
        relpath: path
        for relpath, path, real in _walk(os.fspath(root), "", str(inside), inside, frozenset())
        if real != table
    }
    if not found:
        raise DatasetNotFoundError("holds no files (hidden files are left out): there is nothing to pack.", path=root)
    return dict(sorted(found.items()))


def _walk(folder: str, prefix: str, real_folder: str, inside: Path, above: frozenset[str]) -> Iterator[tuple[str, ...]]:
    """Yield the relative path, the path, and the path without links of each file below a folder."""
    above = above | {real_folder}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            real = os.path.join(real_folder, entry.name)
            if entry.is_symlink():
                real = os.path.realpath(entry.path)
                if not (Path(real).is_relative_to(inside) and os.path.exists(real)):
                    raise UnsafeDatasetError(
                        f"is a symbolic link to {real}, which is outside the folder. Replace the link with a copy of"
                        " the file, or remove it.",
                        path=entry.path,
                    )
            if entry.is_dir():
                # Following a link to a parent folder would never end.
                if real in above:
                    raise UnsafeDatasetError(
                        "is a symbolic link to a folder that contains the link. Remove the link.", path=entry.path
                    )
                yield from _walk(entry.path, f"{prefix}{entry.name}/", real, inside, above)
            elif entry.is_file():
                yield prefix + entry.name, entry.path, real


def _all_overlays(
    files: Mapping[str, str], root: Path, table: Path | None, given: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Merge the overlays of all sources, after checking that each names every file and nothing else."""
    overlays: dict[str, dict[str, Any]] = {}
    if table is not None:
        relpaths, overlays = read_table(table)
        _check_coverage(files, relpaths, str(table), root)
    elif all("/" in relpath for relpath in files):
        overlays = {CATEGORY: {relpath: relpath.partition("/")[0] for relpath in files}}
    for name, values in given.items():
        if table is not None and name in overlays:
            raise ConfigurationError(f"Overlay {name!r} is given twice: as a column of {table}, and in overlays=...")
        _check_coverage(files, values, f"overlays[{name!r}]", root)
        overlays[name] = dict(values)
    return overlays


def _check_coverage(files: Mapping[str, str], named: Iterable[str], source: str, root: Path) -> None:
    for problem, relpaths in (
        ("leaves out {} of the files in", set(files).difference(named)),
        ("names {} files that are not in", set(named).difference(files)),
    ):
        if relpaths:
            shown = ", ".join(sorted(relpaths)[:5]) + (", …" if len(relpaths) > 5 else "")
            raise MetadataKeyError(
                f"{source} {problem.format(len(relpaths))} {root}: {shown}. Paths are relative to the folder,"
                " with slashes. Nothing was written."
            )


@contextmanager
def _progress(count: int, name: str, *, enabled: bool) -> Iterator[Callable[[str], object]]:
    """Show a progress bar, and yield the function to call after each file."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not (enabled and console.is_terminal):
        yield lambda relpath: None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(f"Packing {name}", total=count)
        yield lambda relpath: bar.advance(task)
