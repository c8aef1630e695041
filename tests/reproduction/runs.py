"""Projects and their training in separate processes, as users run them, for tests of `reproduce`."""

import os
import shutil
from pathlib import Path

import programs
from lightning_dtool.store import iter_datasets

SCRIPTS = Path(__file__).parent.parent / "scripts"
ZOO = Path(__file__).parent.parent / "zoo.py"


def project(folder: Path, *scripts: str) -> Path:
    """Create a project from scripts of the tests and return its folder."""
    made = folder / "project"
    made.mkdir(parents=True)
    for script in scripts:
        shutil.copy(SCRIPTS / script, made)
    return made


def train(folder: Path, *command: str, fresh: bool = True, **variables: str) -> None:
    """Run a Python command in a folder, without the seeds of this process. `fresh` is as in `programs`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PL_")}
    environment |= {"PYTHONWARNINGS": "ignore", "JSONARGPARSE_DEPRECATION_WARNINGS": "off", **variables}
    programs.run(*command, cwd=folder, env=environment, fresh=fresh)


def only_checkpoint(models: Path) -> str:
    """Return the URI of the only dataset in a folder."""
    (dataset,) = iter_datasets(str(models))
    return dataset.uri


def places(folder: Path, *names: str) -> list[Path]:
    """Return new folders."""
    made = [folder / name for name in names]
    for place in made:
        place.mkdir(parents=True)
    return made


def content(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
