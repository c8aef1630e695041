"""The commands and readers that every mutated dataset goes through."""

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner

import lightning_dtool
from fuzz.originals import ARRAYS, CHECKPOINT, original
from kit import TinyNet
from lightning_dtool import DtoolCheckpoint, DtoolDataModule, DtoolDataset, FrozenDataset, iter_datasets, locate
from lightning_dtool.cli import model
from lightning_dtool.cli.console import INTERNAL_ERROR
from lightning_dtool.errors import LightningDtoolError
from lightning_dtool.items import CHECKPOINT_ITEM, RECORD_ITEM


@dataclass(frozen=True)
class Places:
    """Where an operation finds things.

    Attributes:
        dataset: The mutated dataset, alone in its base URI.
        uuid: The UUID that it had before.
        originals: The folder of the datasets as they were made.
        scratch: Where operations write.
    """

    dataset: Path
    uuid: str
    originals: Path
    scratch: Path

    @property
    def uri(self) -> str:
        return str(self.dataset)

    @property
    def base(self) -> str:
        return str(self.dataset.parent)

    def original(self, kind: str) -> str:
        return str(original(self.originals, kind))


@dataclass
class Ended:
    """How an operation ended.

    Attributes:
        error: What was raised. None: it returned, or a command ended with an exit code.
        code: The exit code of a command. None for a reader.
        shown: The texts that a user sees.
        told: What was returned, as text.
        as_json: Whether standard output must be JSON.
        may_differ: Whether the exit code 1 is a result.
    """

    error: BaseException | None = None
    code: int | None = None
    shown: list[str] = field(default_factory=list)
    told: str = ""
    as_json: bool = False
    may_differ: bool = False

    @property
    def is_right(self) -> bool:
        """Whether it ended without an error."""
        results = (None, 0, 1) if self.may_differ else (None, 0)
        return self.error is None and self.code in results and (self.code is None or "Error: " not in self.shown[1])


@dataclass(frozen=True)
class Operation:
    """A command or a call.

    Attributes:
        name: What a user would write.
        run: Does it.
        verifies: The items that it compares with their hashes before it uses them. None: all.
        writes: Whether it writes beside the dataset.
    """

    name: str
    run: Callable[[Places], Ended]
    verifies: frozenset[str] | None = frozenset()
    writes: bool = False


def operations(kind: str, only: str = "") -> list[Operation]:
    """Return the operations for a kind of dataset whose names contain a text."""
    found = [*_EVERYWHERE, *(_OF_CHECKPOINTS if kind == CHECKPOINT else _OF_DATA)]
    return [operation for operation in found if only in operation.name]


# -- commands -----------------------------------------------------------------------------------


def _command(
    name: str, *arguments: str, verifies: frozenset[str] | None = frozenset(), writes: bool = False
) -> Operation:
    """Return a command. In its arguments, words in capital letters stand for places."""

    def run(places: Places) -> Ended:
        words = {
            "URI": places.uri,
            "BASE": places.base,
            "ITEMS": str(places.dataset / "data"),
            "SCRATCH": str(places.scratch),
            "CHECKPOINT": places.original(CHECKPOINT),
            "ARRAYS": places.original(ARRAYS),
        }
        given = [name, *(words.get(argument, argument) for argument in arguments)]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = CliRunner().invoke(model, given)
        error = result.exception
        if isinstance(error, SystemExit):  # by the command's exit, of which its own error is the cause
            fault = None if error.__context__ is None else error.__context__.__cause__
            error = fault if result.exit_code == INTERNAL_ERROR else None
        shown = [result.stdout, result.stderr, *(str(warning.message) for warning in caught)]
        return Ended(
            error,
            result.exit_code,
            shown,
            as_json="--json" in arguments,
            may_differ=name in ("check", "compare", "diff", "scan"),
        )

    return Operation(" ".join(["lightning-dtool", name, *arguments]), run, verifies, writes)


# -- readers ------------------------------------------------------------------------------------


def _reader(name: str, read: Callable[[Places], Any], *verified: str, everything: bool = False) -> Operation:
    def run(places: Places) -> Ended:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                value, error = read(places), None
            except Exception as raised:
                value, error = None, raised
        shown = ["", "" if error is None else str(error), *(str(warning.message) for warning in caught)]
        return Ended(error, None, shown, told=value if isinstance(value, str) else "")

    return Operation(name, run, None if everything else frozenset(verified))


def _identity(places: Places) -> str:
    dataset = FrozenDataset.from_uri(places.uri)
    found = (repr(dataset), dataset.uuid, dataset.name, dict(dataset.admin_metadata))
    return str((*found, dataset.created_at, dataset.frozen_at))


def _items(places: Places) -> str:
    dataset = FrozenDataset.from_uri(places.uri)
    found = list(dataset.items.values()), dict(dataset.relpaths), dataset.hash_function, dataset.content_digest
    return str(found)


def _metadata(places: Places) -> str:
    dataset = FrozenDataset.from_uri(places.uri)
    return str((dataset.annotations(), [dataset.overlay(name) for name in dataset.overlay_names()], dataset.tags()))


def _every_item(places: Places) -> None:
    dataset = FrozenDataset.from_uri(places.uri)
    for identifier in dataset.items:
        dataset.path(identifier)
        dataset.read_bytes(identifier)


def _listing(places: Places) -> str:
    failed: list[tuple[str, LightningDtoolError]] = []
    found = list(iter_datasets(places.base, lambda uri, error: failed.append((uri, error))))
    return str(([dataset.uri for dataset in found], failed))


def _located(places: Places) -> str:
    return locate(None, places.uuid, search=[places.base], lookup=False).uri


def _samples(places: Places) -> None:
    dataset = DtoolDataset(places.uri)
    for index in range(len(dataset)):
        dataset[index]
    assert dataset.targets is None or len(dataset.targets) == len(dataset)


def _batches(module: DtoolDataModule) -> None:
    module.prepare_data()
    module.setup("fit")
    list(module.train_dataloader())


def _checkpoint(read: Callable[[DtoolCheckpoint], Any]) -> Callable[[Places], Any]:
    return lambda places: read(DtoolCheckpoint.from_uri(places.uri))


def _differences(places: Places) -> None:
    a, b = (DtoolCheckpoint.from_uri(uri).record for uri in (places.uri, places.original(CHECKPOINT)))
    lightning_dtool.record_differences(a, b)


def _both(places: Places) -> tuple[str, str]:
    return places.original(CHECKPOINT), places.uri


def _unsafe(checkpoint: DtoolCheckpoint) -> None:
    checkpoint.load_module(TinyNet, strict=False)


_RECORD, _WEIGHTS = frozenset({RECORD_ITEM}), frozenset({CHECKPOINT_ITEM})

_EVERYWHERE = [
    _command("ls", "BASE"),
    _command("ls", "BASE", "--json"),
    _command("show", "URI", verifies=_RECORD),
    _command("verify", "URI", verifies=None),
    _command("verify", "URI", "--json", verifies=None),
    _command("scan", "URI"),
    _command("scan", "URI", "--json"),
    _command("recover", "BASE", "--dry-run", "SCRATCH"),
    _command("pack", "ITEMS", "SCRATCH", "--name", "packed", "-y", writes=True),
    _reader("FrozenDataset: identity", _identity),
    _reader("FrozenDataset: items", _items),
    _reader("FrozenDataset: annotations, overlays, tags", _metadata),
    _reader("FrozenDataset.readme", lambda places: FrozenDataset.from_uri(places.uri).readme()),
    _reader("FrozenDataset.verify", lambda places: FrozenDataset.from_uri(places.uri).verify(), everything=True),
    _reader("FrozenDataset.read_bytes", _every_item),
    _reader("iter_datasets", _listing),
    _reader("locate", _located),
    _reader("DtoolDataset", _samples),
    _reader("DtoolDataModule", lambda places: _batches(DtoolDataModule(places.uri, collate_fn=list))),
]

_OF_CHECKPOINTS = [
    _command("show", "URI", "--json", verifies=_RECORD),
    _command("check", "URI", "--strict", verifies=_RECORD),
    _command("check", "URI", "--json", verifies=_RECORD),
    _command("resolve", "URI", verifies=_WEIGHTS),
    _command("diff", "URI", "CHECKPOINT", verifies=_RECORD),
    _command("diff", "CHECKPOINT", "URI", "--json", verifies=_RECORD),
    _command("compare", "URI", "CHECKPOINT", verifies=_RECORD | _WEIGHTS),
    _command("compare", "CHECKPOINT", "URI", "--json", verifies=_RECORD | _WEIGHTS),
    _command("evaluate", "URI", "--data", "ARRAYS", verifies=_RECORD | _WEIGHTS),
    _command("reproduce", "URI", "--into", "SCRATCH", verifies=_RECORD, writes=True),
    _command("replicate", "URI", "--train", "ARRAYS", "--into", "SCRATCH", verifies=_RECORD, writes=True),
    _reader("DtoolCheckpoint.record", _checkpoint(lambda it: it.record.model_dump_json()), RECORD_ITEM),
    _reader("DtoolCheckpoint.path", _checkpoint(lambda it: str(it.path)), CHECKPOINT_ITEM),
    _reader("DtoolCheckpoint.annotations, tags", _checkpoint(lambda it: str((it.annotations, it.tags)))),
    _reader("DtoolCheckpoint.load", _checkpoint(DtoolCheckpoint.load), CHECKPOINT_ITEM),
    _reader("DtoolCheckpoint.load_state_dict", _checkpoint(DtoolCheckpoint.load_state_dict), CHECKPOINT_ITEM),
    _reader("DtoolCheckpoint.load_module", _checkpoint(DtoolCheckpoint.load_module), CHECKPOINT_ITEM, RECORD_ITEM),
    _reader("DtoolCheckpoint.load_module(class)", _checkpoint(_unsafe), CHECKPOINT_ITEM, RECORD_ITEM),
    _reader(
        "DtoolDataModule.from_uri",
        lambda places: _batches(DtoolDataModule.from_uri(places.uri, collate_fn=list)),
        RECORD_ITEM,
    ),
    _reader("record_differences", _differences, RECORD_ITEM),
    _reader("compare", lambda places: lightning_dtool.compare(*_both(places)), CHECKPOINT_ITEM, RECORD_ITEM),
]

_OF_DATA = [
    _command("check", "URI"),
    _command("resolve", "URI", "--json"),
    _command("diff", "URI", "CHECKPOINT"),
    _command("compare", "CHECKPOINT", "URI"),
    _command("evaluate", "CHECKPOINT", "--data", "URI", "--part", "whole"),
    _reader("DtoolDataModule.from_uri", lambda places: _batches(DtoolDataModule.from_uri(places.uri, collate_fn=list))),
    _reader(
        "DtoolDataModule: a stratified split",
        lambda places: _batches(DtoolDataModule(places.uri, val_split=0.25, stratify=True, collate_fn=list)),
    ),
    _reader("DtoolDataset(target='folder')", lambda places: DtoolDataset(places.uri, target="folder")[0]),
    _reader("DtoolDataset(target='none')", lambda places: DtoolDataset(places.uri, target="none")[0]),
    _reader("evaluate", lambda places: lightning_dtool.evaluate(places.original(CHECKPOINT), places.uri, part="whole")),
]


def clean(scratch: Path) -> None:
    """Empty the folder that operations write to."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()


def is_json(text: str) -> bool:
    """Return whether a text is strict JSON."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return True
