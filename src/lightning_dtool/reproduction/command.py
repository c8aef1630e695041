"""The command, the working directory and the environment variables of a rerun.

These are functions of a record. A stranger may have written it, so no variables are used that direct the programs of
this machine, such as `PATH`, or that name its devices and accounts.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath

from lightning_dtool.errors import ReproductionError
from lightning_dtool.record import Provenance
from lightning_dtool.redaction.text import redact_text

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

_OF_THE_PLACE = ("LANG", "LC_ALL", "TZ")
"""Variables that affect how texts and times are read. A rerun sets them as recorded and unsets the others."""

_OF_THIS_MACHINE = re.compile(
    r"_.*|PATH|HOME|USER(NAME)?|LOGNAME|SHELL|IFS|PWD|OLDPWD|TERM|DISPLAY|HOSTNAME|TMPDIR|TEMP|TMP|(BASH|PYTHON)\w*|"
    r"(LD|DYLD|MALLOC|GLIBC|CUDA|HIP|ROCR|NVIDIA|NCCL|GLOO|OMP|MKL|KMP|TORCH|PYTORCH|TRITON|XLA|PL|LIGHTNING|XDG|PIP|UV|"
    r"CONDA|VIRTUAL_ENV|SSH|SSL|GIT|AWS|DTOOL|WANDB|MLFLOW|COMET|NEPTUNE|CI|GITHUB|VSCODE)(_\w*)?|"
    r"SLURM_(?!ARRAY)\w+|PBS_(?!ARRAY)\w+|(LOCAL_|GROUP_|NODE_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)|"
    r"\w+_(PROXY|proxy|CA_BUNDLE)"
)
"""Variables that keep the values of this machine, even if a script reads them."""

_HARMLESS = re.compile(r"[\w:.,=+ -]{1,64}", re.ASCII)

_NAME_OF_A_PLACE = re.compile(r"(?!.*\.\.)[A-Za-z][\w.,:@+/-]{0,63}", re.ASCII)

_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)

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
    """Return the environment variables with which a rerun starts: the present ones, with a few as recorded.

    These are `BIT_VARIABLES`, and those of the language and the time zone.

    Args:
        record: The record.
        present: The present environment variables.
        threads: The number of threads; None for the recorded one.
    """
    as_recorded = (*BIT_VARIABLES, *_OF_THE_PLACE)
    found = {name: value for name, value in present.items() if name not in (*as_recorded, *_SEEDS)}
    recorded = record.environment.variables
    for name in as_recorded:
        value = recorded.get(name, record.randomness.flags.get(name))
        shape = _NAME_OF_A_PLACE if name in _OF_THE_PLACE else _HARMLESS
        if isinstance(value, str) and shape.fullmatch(value):
            found[name] = value
    if threads is not None:
        found |= {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return found


def variables_read(record: Provenance, present: Mapping[str, str]) -> tuple[dict[str, str | None], list[str]]:
    """Return the variables that the recorded script read and that a rerun sets, or unsets, as recorded.

    They are not set before the rerun is inside its limits.

    Args:
        record: The record.
        present: The present environment variables.

    Returns:
        The values by name, None for a variable that was not set; and remarks for the result, on values that replace
        present ones and on variables whose present values are used.
    """
    values: dict[str, str | None] = {}
    notes: list[str] = []
    unknown = {gap.fact for gap in record.gaps}
    for name, value in record.environment.variables_read.items():
        now = present.get(name)
        if (
            not _VARIABLE.fullmatch(name)
            or name in (*BIT_VARIABLES, *_OF_THE_PLACE)
            or _OF_THIS_MACHINE.fullmatch(name)
        ):
            continue
        if f"environment.variables_read.{name}" in unknown or "\0" in (value or ""):
            has = "is not set here" if now is None else "has its present value"
            notes.append(f"the script reads the variable {name}, which is not recorded in clear; it {has}")
        elif value is not None and now is not None and os.path.isabs(value) and not os.path.exists(value):
            notes.append(
                f"the variable {name} has its present value, because the recorded path does not exist: {value}"
            )
        else:
            values[name] = value
            if now is not None and now != value:
                change = "is unset" if value is None else f"is {_cut(value)!r}"
                notes.append(f"the variable {name} {change}, as recorded, and not {_cut(redact_text(now))!r}")
    return values, notes


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"


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
        # LightningCLI refuses to overwrite a config.yaml, and without a logger it writes one to the working directory.
        moved = scratch / "lightning-cli" / file.name
        moved.parent.mkdir(parents=True, exist_ok=True)
        file.replace(moved)
        subcommand = next((argument for argument in given if argument in _SUBCOMMANDS), None)
        return [*([subcommand] if subcommand else []), "--config", str(moved)]
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
