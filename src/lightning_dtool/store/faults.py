"""What a broker, the network or the disk raises becomes an error of this package.

Brokers raise whatever their libraries raise: `OSError`, botocore's and requests' exceptions, bare
`KeyError`s. They are told apart by name here, so that none of those libraries has to be imported.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_dtool.errors import CorruptDatasetError, LightningDtoolError, StoreError

_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "NoRegionError"}
_NO_ANSWER = {
    "EndpointConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ConnectionClosedError",
    "HTTPClientError",
    "ConnectionError",
    "Timeout",
}
# The answer began, and broke off; with the last of them, again and again.
_CUT_OFF = {"IncompleteReadError", "ResponseStreamingError"}
_CUT_OFF_OFTEN = {"RetriesExceededError"}
_DENIED = {
    "403",
    "AccessDenied",
    "Forbidden",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "ExpiredToken",
}
_ABSENT = {"404", "NoSuchKey", "NotFound"}
_OVERLOADED = {"500", "502", "503", "504", "InternalError", "ServiceUnavailable", "SlowDown"}
_CHANGED_ON_THE_WAY = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}


@contextmanager
def store_errors(uri: str, action: str) -> Iterator[None]:
    """Turn what goes wrong inside the block into an error that names the URI and the remedy.

    Args:
        uri: The URI of the dataset or the base URI at hand.
        action: What the block does, to follow "cannot", for instance "write item 'a.txt'".

    Raises:
        CorruptDatasetError: If metadata was read that is no UTF-8 JSON.
        StoreError: For everything else that is not yet an error of this package.

    Example:
        ```python
        with store_errors(uri, "read the manifest"):
            manifest = broker.get_manifest()
        ```
    """
    try:
        yield
    except LightningDtoolError:
        raise
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise CorruptDatasetError(
            f"cannot {action}: expected JSON in UTF-8, found something else ({exc}). "
            "The dataset is damaged: restore it from a copy.",
            uri=uri,
        ) from exc
    except Exception as exc:
        error = StoreError(f"cannot {action}: {_describe(exc)}", uri=uri)
        # Callers can still tell a full disk from a missing permission.
        error.errno = getattr(exc, "errno", None)
        raise error from exc


def is_absent(exc: BaseException) -> bool:
    """Tell whether an exception says that a file or an object is not there.

    Args:
        exc: What a broker raised.

    Returns:
        True for a missing file (or a file where a directory was expected) and for an S3 "no such key".
    """
    if isinstance(exc, (FileNotFoundError, NotADirectoryError)) or _client_code(exc) in _ABSENT:
        return True
    # dtool-http raises an error of its own with nothing but the status in it.
    return type(exc).__name__ == "HTTPError" and "404" in str(exc)


def is_denied(exc: BaseException) -> bool:
    """Tell whether an exception says that the credentials do not allow something.

    Args:
        exc: What a broker raised.
    """
    return _client_code(exc) in _DENIED


def is_cut_off(exc: BaseException) -> bool:
    """Tell whether an exception says that the answer began, but broke off, and that nobody has asked again yet.

    Args:
        exc: What a broker raised.
    """
    return not _names(exc).isdisjoint(_CUT_OFF)


def _describe(exc: BaseException) -> str:
    """Say what was found and what to do about it."""
    names = _names(exc)
    code = _client_code(exc)
    found = str(exc) or type(exc).__name__
    if names & _NO_CREDENTIALS:
        return (
            f"expected credentials, found none ({found}). Set DTOOL_S3_ENDPOINT_<bucket>, "
            "DTOOL_S3_ACCESS_KEY_ID_<bucket> and DTOOL_S3_SECRET_ACCESS_KEY_<bucket>, or configure AWS."
        )
    if code == "NoSuchBucket":
        return f"no such bucket ({found}). Create the bucket or correct its name."
    if code in _ABSENT:
        return f"the server has no such thing ({found}). Check the name, and create the bucket if it is not there."
    if code in _DENIED:
        return f"access was denied ({found}). Check the credentials and what they are allowed to do."
    if code in _CHANGED_ON_THE_WAY:
        return f"the server received something else than what was sent ({found}). Check the network and try again."
    if names & (_CUT_OFF | _CUT_OFF_OFTEN):
        return f"the connection broke off ({found}). Check the network and try again."
    if code in _OVERLOADED:
        return f"the server is out of order or overloaded ({found}). Try again later."
    if names & _NO_ANSWER:
        return f"the server does not answer ({found}). Check the endpoint and the network."
    if isinstance(exc, FileNotFoundError):
        return f"no such file or directory ({found}). Check the path."
    if isinstance(exc, PermissionError):
        return f"permission denied ({found}). Check who may read and write there."
    if isinstance(exc, NotImplementedError) or (isinstance(exc, AttributeError) and "StorageBroker" in found):
        return "its storage broker cannot do this. Use another kind of storage."
    return f"{type(exc).__name__}: {found}"


def _names(exc: BaseException) -> set[str]:
    return {cls.__name__ for cls in type(exc).__mro__}


def _client_code(exc: BaseException) -> str:
    """Return botocore's error code ("NoSuchKey"), or ''."""
    if type(exc).__name__ == "S3UploadFailedError" and exc.__context__ is not None:
        # boto3's own, which only quotes the error that says what was wrong.
        return _client_code(exc.__context__)
    response = getattr(exc, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""
