"""URIs of datasets and base URIs."""

import os
import re
import socket
from functools import cache
from pathlib import Path

from lightning_dtool.errors import InvalidURIError
from lightning_dtool.store.brokers import broker_class, installed_schemes, is_installed

_URI = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://(?P<rest>.*)", re.DOTALL)
_COLLAPSED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/(?!/)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

# The packages of the brokers that work today.
_INSTALL = {
    "s3": "lightning-dtool[s3]",
    "ecs": "dtool-ecs",
    "azure": "dtool-azure",
    "irods": "dtool-irods",
    "smb": "dtool-smb",
    "http": "dtool-http",
    "https": "dtool-http",
    "symlink": "dtool-symlink",
}


def scheme_of(uri: str) -> str:
    """Return the scheme of a normalized URI.

    Args:
        uri: A URI that `normalize_uri` returned.
    """
    return uri.split("://", 1)[0]


def normalize_uri(uri: str | os.PathLike[str]) -> str:
    """Return the canonical dtool URI of a dataset or of a place that holds datasets.

    Args:
        uri: A dtool URI, or a relative or absolute path on disk. `file:///x`, `file://anyhost/x` and `/x`
            give the same result.

    Returns:
        The URI, without a trailing slash.

    Raises:
        InvalidURIError: If it is empty or not a string or path, if no installed storage broker reads its scheme, or
            if a path has characters that dtool misreads.

    Example:
        ```python
        normalize_uri("models")     # "file://myhost/home/me/models"
        normalize_uri("s3://lab/")  # "s3://lab"
        ```
    """
    text = _as_text(uri)
    match = _URI.fullmatch(text)
    if match is None:
        if _COLLAPSED.match(text):
            raise InvalidURIError(
                "expected a URI with '://' or a path, found ':/'. A URI that goes through pathlib loses "
                "a slash: pass it as a string.",
                uri=text,
            )
        return _file_uri(text, text)
    scheme, rest = match["scheme"].lower(), match["rest"]
    if scheme == "file":
        slash = rest.find("/")
        if slash < 0:
            raise InvalidURIError("expected file://<host>/<absolute path>, found no path. Add the path.", uri=text)
        return _file_uri(text, rest[slash:])
    if not is_installed(scheme):
        raise InvalidURIError(_unknown_scheme(scheme), uri=text)
    rest = rest.rstrip("/")
    if not rest or rest.startswith("/"):
        raise InvalidURIError(f"expected a name after '{scheme}://' (a bucket or a host), found none.", uri=text)
    return f"{scheme}://{rest}"


def local_path(uri: str | os.PathLike[str]) -> Path | None:
    """Return the directory that a URI names on this machine's file system.

    Args:
        uri: A dataset's URI or a base URI.

    Returns:
        The absolute path, or None if the scheme of the URI is not `file`.

    Raises:
        InvalidURIError: If the URI is malformed.
    """
    normal = normalize_uri(uri)
    if scheme_of(normal) != "file":
        return None
    rest = normal.removeprefix("file://")
    return Path(rest[rest.index("/") :])


def is_dataset_uri(value: object) -> bool:
    """Tell whether a value names a dtool dataset and not, for instance, a checkpoint file. No server is asked.

    Args:
        value: Any value, for instance a user's `ckpt_path`.

    Returns:
        True for a URI of an installed broker and for a local directory that holds a dataset. False for a URI of an
        existing file and for a remote URI that ends in ".ckpt": both are left to Lightning.

    Example:
        ```python
        is_dataset_uri("s3://lab-models/7bb1…")  # True
        is_dataset_uri("runs/last.ckpt")         # False
        ```
    """
    if not isinstance(value, (str, os.PathLike)):
        return False
    try:
        text = os.fspath(value)
        if not isinstance(text, str):
            return False
        path = local_path(text)
        if _URI.fullmatch(text) is None:
            return path is not None and (path / ".dtool").is_dir()
        return not text.endswith(".ckpt") if path is None else not path.is_file()
    except (InvalidURIError, OSError, ValueError):
        return False


def _as_text(uri: object) -> str:
    """Return the URI as a string, or raise."""
    text = os.fspath(uri) if isinstance(uri, os.PathLike) else uri
    if not isinstance(text, str):
        raise InvalidURIError(f"expected a dtool URI or a path, found {uri!r}. Pass a string such as 'file:///data/x'.")
    if not text.strip():
        raise InvalidURIError(
            f"expected a dtool URI or a path, found {text!r}. Pass a string such as 'file:///data/x'."
        )
    if _CONTROL.search(text):
        raise InvalidURIError(f"expected a URI, found a control character in {text!r}. Remove it.")
    return text


def _file_uri(text: str, path: str) -> str:
    """Return dtool's URI of a path. It includes the host's name, which readers ignore."""
    # Not `Path.resolve`: a URI keeps symbolic links.
    absolute = os.path.abspath(path)
    found = [character for character in "#?" if character in absolute]
    if found:
        raise InvalidURIError(
            f"expected a path without '#' and '?', which dtool misreads, found {found[0]!r}. Rename the directory.",
            uri=text,
        )
    return f"file://{_host()}{absolute}"


@cache
def _host() -> str:
    return socket.gethostname()


def _unknown_scheme(scheme: str) -> str:
    installed = ", ".join(installed_schemes())
    remedy = f"pip install '{_INSTALL[scheme]}'" if scheme in _INSTALL else "correct the URI or install its broker"
    return f"expected a URI of an installed storage broker ({installed}), found {scheme!r}. Remedy: {remedy}."


def uri_of_new(name: str, uuid: str, base_uri: str) -> str:
    """Return the URI that a new dataset will have.

    Args:
        name: Its name.
        uuid: Its UUID.
        base_uri: A normalized base URI.
    """
    return normalize_uri(broker_class(scheme_of(base_uri)).generate_uri(name, uuid, base_uri))
