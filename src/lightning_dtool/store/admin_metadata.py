"""The administrative metadata of a new dataset, and who makes it."""

import getpass
import os
import time
import unicodedata
import uuid
from typing import Any


def new_admin_metadata(name: str, creator_username: str | None = None, new_uuid: str | None = None) -> dict[str, Any]:
    """Return the administrative metadata of a dataset that is being built.

    Args:
        name: The dataset's name.
        creator_username: The creator's name. By default that of the current user, or "unknown".
        new_uuid: Its UUID. By default a new one.
    """
    from dtoolcore import __version__

    return {
        "uuid": new_uuid or str(uuid.uuid4()),
        "dtoolcore_version": __version__,
        "name": name,
        "type": "protodataset",
        "creator_username": _plain(creator_username or current_user()),
        "created_at": time.time(),
    }


CREATOR_VARIABLE = "LIGHTNING_DTOOL_CREATOR_USERNAME"
"""The environment variable with the name to be recorded in place of the operating system's."""


def current_user() -> str:
    """Return the name of the user: that of `CREATOR_VARIABLE`, or else the operating system's.

    It is "unknown" if there is none, as for some users in containers.
    """
    if chosen := os.environ.get(CREATOR_VARIABLE, "").strip():
        return chosen
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "unknown"


def _plain(username: str) -> str:
    """Return a name in ASCII, because S3 keeps it in a header."""
    decomposed = unicodedata.normalize("NFKD", username.replace("ß", "ss"))
    kept = "".join(character for character in decomposed if " " <= character <= "~").strip()
    return kept or "unknown"
