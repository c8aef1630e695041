"""Whatever goes wrong below, an error of this package comes out of it, and says what to do."""

import json

import pytest

from lightning_dtool.errors import CorruptDatasetError, MissingItemError, StoreError
from lightning_dtool.store.faults import is_absent, is_cut_off, is_denied, store_errors


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


class HTTPError(RuntimeError):
    pass


@pytest.mark.parametrize(
    ("raised", "remedy"),
    [
        (NoCredentialsError(), "DTOOL_S3_ACCESS_KEY_ID_<bucket>"),
        (ReadTimeoutError(), "Check the endpoint"),
        (ClientError("NoSuchBucket"), "Create the bucket"),
        (ClientError("403"), "Check the credentials"),
        (ClientError("404"), "Check the name"),
        (FileNotFoundError(2, "No such file"), "Check the path"),
        (PermissionError(13, "Permission denied"), "Check who may"),
        (NotImplementedError(), "Use another kind of storage"),
        (KeyError("foo"), "KeyError: 'foo'"),
        (ClientError("SlowDown"), "Try again later"),
        (ClientError("BadDigest"), "something else than what was sent"),
        (IncompleteReadError(), "broke off"),
        (ClientError("Teapot"), "ClientError: An error occurred"),
    ],
)
def test_the_remedy_fits_the_fault(raised: Exception, remedy: str) -> None:
    with pytest.raises(StoreError) as caught, store_errors("s3://lab/x", "open the dataset"):
        raise raised
    assert str(caught.value).startswith("s3://lab/x: cannot open the dataset: ")
    assert remedy in str(caught.value)
    assert caught.value.__cause__ is raised
    assert caught.value.errno == getattr(raised, "errno", None)


def test_what_is_no_json_is_damage() -> None:
    for use in (lambda: json.loads("{"), lambda: b"\xff".decode(), lambda: json.loads("[" * 100_000)):
        with pytest.raises(CorruptDatasetError, match="expected JSON"), store_errors("x", "read"):
            use()


def test_errors_of_this_package_and_interrupts_pass() -> None:
    for error in (MissingItemError("a"), KeyboardInterrupt()):
        with pytest.raises(type(error)), store_errors("x", "read"):
            raise error


def test_absence() -> None:
    for error in (FileNotFoundError(), NotADirectoryError(), ClientError("NoSuchKey"), HTTPError(404)):
        assert is_absent(error)
    for error in (PermissionError(), ClientError("403"), HTTPError(500), ValueError("404")):
        assert not is_absent(error)


def test_denial_and_what_breaks_off() -> None:
    assert is_denied(ClientError("AccessDenied"))
    assert not is_denied(ClientError("404"))
    assert is_cut_off(IncompleteReadError())
    assert not is_cut_off(ReadTimeoutError())
    assert not is_cut_off(ClientError("500"))


def test_what_boto3_only_quotes_is_looked_up() -> None:
    error = S3UploadFailedError("Failed to upload")
    error.__context__ = ClientError("AccessDenied")
    with pytest.raises(StoreError, match="Check the credentials"), store_errors("s3://lab/x", "write"):
        raise error
