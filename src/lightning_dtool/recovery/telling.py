"""What is said about unfinished operations when a base URI is listed, and when a training begins."""

import contextlib
import threading
from collections.abc import Callable, Sequence

from lightning_dtool.errors import LightningDtoolError
from lightning_dtool.store import local_path
from lightning_dtool.store.leftovers import Leftover
from lightning_dtool.store.places import leftovers


def tell_of_unfinished(base_uri: str, say: Callable[[str], object]) -> None:
    """Say what nobody will finish at a base URI, as far as one look shows. A store that fails is not an error.

    A remote store is asked in the background.

    Args:
        base_uri: The base URI.
        say: Called with a sentence, if something is unfinished.
    """

    def look() -> None:
        with contextlib.suppress(LightningDtoolError):
            found = [each for each in leftovers(base_uri, quick=True) if each.is_owned is False]
            if found:
                say(
                    f"Left unfinished in {base_uri} by processes that have ended: {_counted(found)}. "
                    f"Finish or remove: lightning-dtool recover {base_uri}"
                )

    if local_path(base_uri) is not None:
        look()
    else:
        threading.Thread(target=look, name="lightning-dtool-look", daemon=True).start()


def unfinished(base_uri: str) -> str:
    """Return what is unfinished at a base URI, and owned by nobody who is known to run; empty if nothing is.

    A remote store is asked once, for the notes of those that write there, and not about each dataset.

    Args:
        base_uri: The base URI.

    Raises:
        InvalidURIError: If the base URI is malformed or no installed storage broker reads it.
        StoreError: If the store cannot be read.
    """
    found = [each for each in leftovers(base_uri, quick=local_path(base_uri) is None) if not each.is_owned]
    if not found:
        return ""
    what = "Unfinished" if all(each.is_owned is False for each in found) else "Unfinished, or still in use,"
    return f"{what} in {base_uri}: {_counted(found)}. See: lightning-dtool recover --dry-run {base_uri}"


def _counted(found: Sequence[Leftover]) -> str:
    if all(each.kind == "note" for each in found):
        return "whatever 1 process was writing" if len(found) == 1 else f"whatever {len(found)} processes were writing"
    return "1 dataset or upload" if len(found) == 1 else f"{len(found)} datasets or uploads"
