"""The translation of what brokers, the network and the disk raise into errors of this package.

Brokers raise whatever their libraries raise: `OSError`, botocore's and requests' exceptions, bare
`KeyError`s. They are told apart by the names of their classes, so that none of those libraries has to be imported.
"""

import errno
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from lightning_dtool.errors import CorruptDatasetError, LightningDtoolError, StoreError, StoreErrorKind
from lightning_dtool.store.waiting import hurry


class _Raised(NamedTuple):
    """An exception, the names of its classes, and the server's code in it, such as "NoSuchKey"."""

    error: BaseException
    names: frozenset[str]
    code: str


class _Fault(NamedTuple):
    """A cause of failure: its kind, its description, its remedy, and the test that recognises it."""

    kind: StoreErrorKind
    found: str
    remedy: str
    fits: Callable[[_Raised], bool]


def _named(*names: str) -> Callable[[_Raised], bool]:
    return lambda raised: not raised.names.isdisjoint(names)


def _coded(*codes: str) -> Callable[[_Raised], bool]:
    return lambda raised: raised.code in codes


def _is(*types: type[BaseException]) -> Callable[[_Raised], bool]:
    return lambda raised: isinstance(raised.error, types)


def _lacks_operation(raised: _Raised) -> bool:
    error = raised.error
    return isinstance(error, NotImplementedError) or (
        isinstance(error, AttributeError) and "StorageBroker" in str(error)
    )


def _no_space(raised: _Raised) -> bool:
    return isinstance(raised.error, OSError) and raised.error.errno in {errno.ENOSPC, errno.EDQUOT}


# The first one that fits an exception is its cause.
_FAULTS = (
    _Fault(
        "credentials",
        "expected credentials, found none",
        "Set DTOOL_S3_ENDPOINT_<bucket>, DTOOL_S3_ACCESS_KEY_ID_<bucket> and DTOOL_S3_SECRET_ACCESS_KEY_<bucket>, "
        "or configure AWS.",
        _named("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "NoRegionError"),
    ),
    _Fault("no_bucket", "no such bucket", "Create the bucket or correct its name.", _coded("NoSuchBucket")),
    _Fault(
        "absent",
        "the server has no such thing",
        "Check the name, and create the bucket if it is not there.",
        _coded("404", "NoSuchKey", "NotFound"),
    ),
    _Fault(
        "denied",
        "access was denied",
        "Check the credentials and what they are allowed to do.",
        _coded(
            "401",
            "403",
            "AccessDenied",
            "Forbidden",
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "InvalidToken",
            "ExpiredToken",
        ),
    ),
    _Fault(
        "altered",
        "the server received something else than what was sent",
        "Check the network and try again.",
        _coded("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"),
    ),
    _Fault(
        "cut_off",
        "the connection broke off",
        "Check the network and try again.",
        _named("IncompleteReadError", "ResponseStreamingError"),
    ),
    _Fault(
        "no_answer",
        "the connection broke off each time",
        "Check the network and try again.",
        _named("RetriesExceededError"),
    ),
    _Fault(
        "overloaded",
        "the server is out of order or overloaded",
        "Try again later.",
        _coded("500", "502", "503", "504", "InternalError", "ServiceUnavailable", "SlowDown"),
    ),
    _Fault(
        "no_answer",
        "the server does not answer",
        "Check the endpoint and the network.",
        _named(
            "EndpointConnectionError",
            "ConnectTimeoutError",
            "ReadTimeoutError",
            "ConnectionClosedError",
            "HTTPClientError",
            "ConnectionError",
            "Timeout",
            "NoAnswerError",
        ),
    ),
    _Fault("absent", "no such file or directory", "Check the path.", _is(FileNotFoundError, NotADirectoryError)),
    _Fault("denied", "permission denied", "Check who may read and write there.", _is(PermissionError)),
    _Fault("full", "no space is left", "Free some, or write elsewhere.", _no_space),
    _Fault("unsupported", "its storage broker cannot do this", "Use another kind of storage.", _lacks_operation),
)


@contextmanager
def store_errors(uri: str, action: str, *, item: str | None = None) -> Iterator[None]:
    """Turn an exception from the block into an error that names the URI, the cause and the remedy.

    Args:
        uri: The URI of the dataset or the base URI at hand.
        action: What the block does, to follow "cannot", for instance "write item 'a.txt'".
        item: The relative path of the item that the block is about, if it is about one.

    Raises:
        CorruptDatasetError: If the block reads metadata that is not JSON in UTF-8.
        StoreError: For every other exception that is not yet an error of this package. Its `kind` is the cause, and
            its `errno` is that of the exception, if it has one.

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
    except KeyboardInterrupt:
        hurry()  # much may still be waited for while the program ends
        raise
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise CorruptDatasetError(
            f"cannot {action}: expected JSON in UTF-8, found something else ({exc}). "
            "The dataset is damaged: restore it from a copy.",
            uri=uri,
            item=item,
        ) from exc
    except Exception as exc:
        kind, description = _described(exc)
        error = StoreError(f"cannot {action}: {description}", uri=uri, item=item, kind=kind)
        error.errno = getattr(exc, "errno", None)
        raise error from exc


def kind_of(exc: BaseException) -> StoreErrorKind:
    """Return the cause that an exception stands for.

    Args:
        exc: What a broker raised.
    """
    fault = _fault(exc)
    return "other" if fault is None else fault.kind


def _described(exc: Exception) -> tuple[StoreErrorKind, str]:
    """Return the cause, what was found, and what to do about it."""
    fault = _fault(exc)
    said = str(exc) or type(exc).__name__
    if fault is None:
        return "other", f"{type(exc).__name__}: {said}"
    if fault.kind == "unsupported":  # the exception names only the method
        return fault.kind, f"{fault.found}. {fault.remedy}"
    return fault.kind, f"{fault.found} ({said}). {fault.remedy}"


def _fault(exc: BaseException) -> _Fault | None:
    raised = _Raised(exc, frozenset(cls.__name__ for cls in type(exc).__mro__), _code(exc))
    return next((fault for fault in _FAULTS if fault.fits(raised)), None)


def _code(exc: BaseException) -> str:
    """Return botocore's error code ("NoSuchKey") or an HTTP status ("404"); '' if there is none."""
    if type(exc).__name__ == "S3UploadFailedError" and exc.__context__ is not None:
        # boto3's own error only quotes the one that has the code.
        return _code(exc.__context__)
    response = getattr(exc, "response", None)
    if isinstance(response, dict):
        return str(response.get("Error", {}).get("Code", ""))
    # dtool-http's own error has nothing but the status in it.
    status = re.search(r"\b[1-5]\d\d\b", str(exc)) if type(exc).__name__ == "HTTPError" else None
    return status[0] if status else ""
