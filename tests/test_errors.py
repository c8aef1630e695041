"""Errors: their attributes, messages, pickling, and documentation."""

import copy
import errno
import pickle

import pytest

from lightning_dtool import errors
from lightning_dtool.errors import LightningDtoolError, StoreError

CLASSES = [
    found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, LightningDtoolError)
]


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_keeps_its_attributes_when_pickled(kind: type[LightningDtoolError]) -> None:
    error = kind("no such thing.", uri="s3://lab/x", item="a", path="/data/a", kind="absent")
    for found in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(found) is kind
        assert str(found) == "s3://lab/x: no such thing."
        assert (found.reason, found.uri, found.item) == ("no such thing.", "s3://lab/x", "a")
        assert (found.path, found.kind) == ("/data/a", "absent")


def test_an_error_keeps_its_errno_when_pickled() -> None:
    error = StoreError("no space left.", uri="file:///data/x", kind="full")
    error.errno = errno.ENOSPC
    assert pickle.loads(pickle.dumps(error)).errno == errno.ENOSPC


def test_every_error_is_in_the_documented_tree() -> None:
    assert [
        kind.__name__ for kind in CLASSES if f" {kind.__name__}" not in f" {errors.__doc__}".replace("\n", " ")
    ] == []


def test_the_message_begins_with_the_uri_or_path() -> None:
    assert str(StoreError("gone.", uri="s3://lab/x", path="/data/a")) == "s3://lab/x: gone."
    assert str(StoreError("gone.", path="/data/a")) == "/data/a: gone."
    assert str(StoreError("gone.", item="a")) == "gone."
