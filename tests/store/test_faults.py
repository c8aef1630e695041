"""The translation of errors: kinds and remedies."""

import errno
import json
from typing import get_args

import pytest

from lightning_dtool.errors import CorruptDatasetError, MissingItemError, StoreError, StoreErrorKind
from lightning_dtool.store.faults import kind_of, store_errors


class NoCredentialsError(Exception):
    pass


class ReadTimeoutError(Exception):
    pass


class ClientError(Exception):
    def __init__(self, code: str) -> None:
        super().__init__(f"An error occurred ({code})")
        self.response = {"Error": {"Code": code}}


class IncompleteReadError(Exception):
    pass


class S3UploadFailedError(Exception):
    pass


class RetriesExceededError(Exception):
    pass


class HTTPError(RuntimeError):
    pass


FAULTS: list[tuple[Exception, StoreErrorKind, str]] = [
    (NoCredentialsError(), "credentials", "DTOOL_S3_ACCESS_KEY_ID_<bucket>"),
    (ReadTimeoutError(), "no_answer", "Check the endpoint"),
    (ConnectionResetError(), "no_answer", "Check the endpoint"),
    (RetriesExceededError(), "no_answer", "broke off each time"),
    (ClientError("NoSuchBucket"), "no_bucket", "Create the bucket"),
    (ClientError("403"), "denied", "Check the credentials"),
    (ClientError("404"), "absent", "Check the name"),
    (ClientError("NoSuchKey"), "absent", "Check the name"),
    (HTTPError(404), "absent", "Check the name"),
    (HTTPError(403), "denied", "Check the credentials"),
    (HTTPError(503), "overloaded", "Try again later"),
    (FileNotFoundError(2, "No such file"), "absent", "Check the path"),
    (NotADirectoryError(20, "Not a directory"), "absent", "Check the path"),
    (PermissionError(13, "Permission denied"), "denied", "Check who may"),
    (OSError(errno.ENOSPC, "No space left on device"), "full", "Free some"),
    (NotImplementedError(), "unsupported", "Use another kind of storage"),
    (AttributeError("'HTTPStorageBroker' object has no attribute 'put_tag'"), "unsupported", "another kind of storage"),
    (AttributeError("'dict' object has no attribute 'x'"), "other", "AttributeError: 'dict'"),
    (KeyError("foo"), "other", "KeyError: 'foo'"),
    (ValueError("404"), "other", "ValueError: 404"),
    (ClientError("SlowDown"), "overloaded", "Try again later"),
    (ClientError("BadDigest"), "altered", "something else than what was sent"),
    (IncompleteReadError(), "cut_off", "broke off"),
    (ClientError("Teapot"), "other", "ClientError: An error occurred"),
]


@pytest.mark.parametrize(("raised", "kind", "remedy"), FAULTS)
def test_kind_and_remedy_fit_the_fault(raised: Exception, kind: StoreErrorKind, remedy: str) -> None:
    with pytest.raises(StoreError) as caught, store_errors("s3://lab/x", "write item 'a'", item="a"):
        raise raised
    assert kind_of(raised) == caught.value.kind == kind
    assert str(caught.value).startswith("s3://lab/x: cannot write item 'a': ")
    assert remedy in str(caught.value)
    assert (caught.value.uri, caught.value.item) == ("s3://lab/x", "a")
    assert caught.value.__cause__ is raised
    assert caught.value.errno == getattr(raised, "errno", None)


def test_every_kind_is_one_that_the_error_documents() -> None:
    # No fault of a store is "offline": it is not asked.
    assert {kind for _, kind, _ in FAULTS} == set(get_args(StoreErrorKind)) - {"offline"}


def test_metadata_that_is_not_json_is_damage() -> None:
    for use in (lambda: json.loads("{"), lambda: b"\xff".decode(), lambda: json.loads("[" * 100_000)):
        with pytest.raises(CorruptDatasetError, match="expected JSON"), store_errors("x", "read"):
            use()


def test_errors_of_this_package_and_interrupts_pass() -> None:
    for error in (MissingItemError("a"), KeyboardInterrupt()):
        with pytest.raises(type(error)), store_errors("x", "read"):
            raise error


def test_an_error_that_boto3_only_quotes_is_classified() -> None:
    error = S3UploadFailedError("Failed to upload")
    error.__context__ = ClientError("AccessDenied")
    with pytest.raises(StoreError, match="Check the credentials"), store_errors("s3://lab/x", "write"):
        raise error
