"""The folders of a recorded training that its rerun might write to again."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from lightning_dtool.record import Provenance
from lightning_dtool.sandbox.protection import is_below
from lightning_dtool.store import local_path

_FOLDER_SETTING = re.compile(r"default_root_dir|dirpath|\w*save_dir|root_dir|log_dir")
_ABSOLUTE = re.compile(r"""(?:(?<=["'=])|(?<=: ))(~?/[^"'\n\0]+)""")
"""An absolute path in source code, as an argument, or as a value in YAML."""


def outputs_at_risk(record: Provenance, source: Path, original: str) -> list[str]:
    """Return existing folders that the recorded training wrote to and that its rerun would write to again.

    They are its recorded folders outside the working directory, because the Trainer's folders inside it are redirected,
    and the absolute paths in its arguments and its source code that hold the original or a recorded folder.

    Args:
        record: The record.
        source: The folder with its unpacked source.
        original: The URI of the recorded checkpoint.
    """
    recorded = list(dict.fromkeys(os.path.abspath(path) for path in _recorded(record)))
    working = record.code.working_directory
    found = [path for path in recorded if not (working and is_below(path, [working]))]
    place = local_path(original)
    held = [*recorded, *([str(place)] if place is not None else [])]
    for text in _texts(record, source):
        for given in _ABSOLUTE.findall(text):
            path = os.path.abspath(os.path.expanduser(given))
            if len(Path(path).parts) > 1 and any(is_below(one, [path]) for one in held):
                found.append(path)
    return [path for path in dict.fromkeys(found) if os.path.isdir(path)]


def _recorded(record: Provenance) -> Iterator[str]:
    components = (*record.trainer.callbacks, *record.trainer.loggers)
    for settings in (record.trainer.settings, *(component.settings for component in components)):
        for name, value in settings.items():
            if _FOLDER_SETTING.fullmatch(name) and isinstance(value, str) and os.path.isabs(value):
                yield value


def _texts(record: Provenance, source: Path) -> Iterator[str]:
    yield "\n".join(f"={argument}" for argument in record.code.argv[1:])
    for path in source.rglob("*"):
        if path.suffix in (".py", ".yaml", ".yml") and path.is_file():
            yield path.read_text(encoding="utf-8", errors="replace")
