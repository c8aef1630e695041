"""The command, the working directory and the environment variables of a rerun.

These are pure functions of a record. A stranger may have written it, so only variables from a fixed list are used.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath

from lightning_dtool.errors import ReproductionError
from lightning_dtool.record import Provenance

BIT_VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG",
    "GOTO_NUM_THREADS",
    "KMP_DETERMINISTIC_REDUCTION",
    "MKL_CBWR",
    "MKL_DYNAMIC",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_DYNAMIC",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "PYTHONHASHSEED",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
"""Variables that affect numerical results and nothing else. A rerun sets them as recorded and unsets the others."""

_HARMLESS = re.compile(r"[\w:.,=+ -]{1,64}", re.ASCII)

_SEEDS = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
"""Variables that `seed_everything` sets. A rerun starts without them."""

_SUBCOMMANDS = ("fit", "validate", "test", "predict")


@dataclass(frozen=True)
class Command:
    """The command of a rerun.

    Attributes:
        arguments: The arguments of `rehearsal/child.py`: `script` or `module`, its file or name, `sys.argv[0]`, and the
            arguments of the script.
        folder: The working directory.
        paths: Folders from which the recorded modules are imported.
        recorded_root: The folder of the recorded project; None if it is unknown.
        notes: Remarks for the result.
    """

    arguments: list[str]
    folder: Path
    paths: list[Path]
    recorded_root: PurePath | None
    notes: list[str] = field(default_factory=list)


def command(record: Provenance, root: Path, scratch: Path, *, other_code: bool = False) -> Command:
    """Return the command that runs a recorded training from its unpacked source.

    Args:
        record: The record.
        root: The folder with the unpacked `source.zip`.
        scratch: A folder for files that the command needs.
        other_code: Whether other code runs, whose defaults the recorded configuration of LightningCLI would replace.

    Raises:
        ReproductionError: If the record does not contain the program that ran.
    """
    code = record.code
    if code.entry_point is None or not _inside(root, code.entry_point):
        raise ReproductionError(
            "the record does not contain the program that ran (an interactive prompt, or an installed command): "
            f"expected code.entry_point in source.zip, found {code.entry_point!r}. Train with a script, a notebook, "
            "or a module of the project.",
            kind="no_program",
        )
    recorded_root = project_root(record)
    folder = working_directory(record, recorded_root, root)
    folder.mkdir(parents=True, exist_ok=True)
    notes: list[str] = []
    hidden = [argument for argument in code.argv if "[redacted" in argument.lower()]
    if hidden:
        notes.append(f"{len(hidden)} command line arguments are redacted in the record, as possible credentials")
    given = [_relocated(argument, recorded_root, root) for argument in code.argv[1:]]
    arguments = given if other_code and reads_anew(record) else _configured(record, given, root, scratch)
    if code.run_as_module is not None:
        start = ["module", code.run_as_module, code.argv[0] if code.argv else code.run_as_module]
    else:
        script = root / code.entry_point
        first = code.argv[0] if code.argv else ""
        # The path as the user typed it, if it leads to the script.
        typed = first if first and not os.path.isabs(first) and (folder / first).is_file() else str(script)
        start = ["script", str(script), typed]
    return Command([*start, *arguments], folder, _import_paths(record, root), recorded_root, notes)


def reads_anew(record: Provenance) -> bool:
    """Return whether other code makes its configuration from the recorded arguments, with its own defaults."""
    return record.trainer.config is not None and record.trainer.config.kind == "LightningCLI"


def project_root(record: Provenance) -> PurePath | None:
    """Return the recorded folder that the paths in source.zip are relative to; None if it is unknown."""
    code = record.code
    if code.entry_point is None or not code.argv or not code.working_directory:
        return None
    script = os.path.normpath(os.path.join(code.working_directory, code.argv[0]))
    entry = PurePosixPath(code.entry_point)
    path = PurePosixPath(script)
    if path.parts[-len(entry.parts) :] != entry.parts:
        return None
    return PurePosixPath(*path.parts[: -len(entry.parts)])


def working_directory(record: Provenance, recorded_root: PurePath | None, root: Path) -> Path:
    """Return the working directory: the recorded one if it was in the project, else the folder of the project.

    Args:
        record: The record.
        recorded_root: The folder of the recorded project.
        root: The folder with the unpacked source.
    """
    recorded = PurePosixPath(os.path.normpath(record.code.working_directory or "/"))
    if recorded_root is not None and recorded.is_relative_to(recorded_root):
        return root / recorded.relative_to(recorded_root)
    return root


def variables(record: Provenance, present: Mapping[str, str], threads: int | None = None) -> dict[str, str]:
    """Return the environment variables of a rerun: the present ones, with `BIT_VARIABLES` as recorded.

    Args:
        record: The record.
        present: The present environment variables.
        threads: The number of threads; None for the recorded one.
    """
    found = {name: value for name, value in present.items() if name not in (*BIT_VARIABLES, *_SEEDS)}
    recorded = record.environment.variables
    for name in BIT_VARIABLES:
        value = recorded.get(name, record.randomness.flags.get(name))
        if isinstance(value, str) and _HARMLESS.fullmatch(value):
            found[name] = value
    if threads is not None:
        found |= {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return found


def recorded_threads(record: Provenance) -> int | None:
    """Return the recorded number of threads of torch; None if it is unknown."""
    found = record.randomness.flags.get("num_threads")
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 < found < 10_000 else None


def _relocated(argument: str, recorded_root: PurePath | None, root: Path) -> str:
    """Return an argument, with a path in the recorded project replaced by the path in the unpacked source."""
    if recorded_root is None or len(recorded_root.parts) < 2:
        return argument
    prefix = f"{recorded_root}/"
    name, separator, value = argument.partition("=")
    if separator and value.startswith(prefix):
        return f"{name}={root}/{value.removeprefix(prefix)}"
    return f"{root}/{argument.removeprefix(prefix)}" if argument.startswith(prefix) else argument


def _configured(record: Provenance, given: list[str], root: Path, scratch: Path) -> list[str]:
    """Return the arguments, or those that load the recorded configuration if there is one."""
    config = record.trainer.config
    if config is None or not _inside(root, config.file):
        return given
    file = root / config.file
    if config.kind == "LightningCLI":
        subcommand = next((argument for argument in given if argument in _SUBCOMMANDS), None)
        return [*([subcommand] if subcommand else []), "--config", str(file)]
    if config.kind == "Hydra":
        folder = scratch / "hydra"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_bytes(file.read_bytes())
        run = scratch / "hydra-run"
        return ["--config-path", str(folder), "--config-name", "config", f"hydra.run.dir={run}"]
    return given


def _inside(root: Path, relpath: str) -> bool:
    """Return whether a path leads to a file of the unpacked source. A stranger's record may name any path."""
    path = (root / relpath).resolve()
    return path.is_relative_to(root.resolve()) and path.is_file()


def _import_paths(record: Provenance, root: Path) -> list[Path]:
    """Return the folders that the recorded modules were imported from, such as `src`."""
    found: dict[Path, None] = {root: None}
    for name, relpath in record.code.modules.items():
        if name == "__main__":
            continue
        path = PurePosixPath(relpath)
        parts = path.parent.parts if path.name == "__init__.py" else (*path.parent.parts, path.stem)
        package = tuple(name.split("."))
        if ".." not in parts and len(package) <= len(parts) and parts[-len(package) :] == package:
            found[root.joinpath(*parts[: -len(package)])] = None
    return list(found)
