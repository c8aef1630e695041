"""The recorded code: all of the user's own, and nothing else."""

import ast
import hashlib
import io
import json
import os
import re
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

import lightning_dtool.capture.code as code_module
import programs
from capture.work_trees import git
from kit import TinyNet, loader, trainer
from lightning_dtool import DtoolProvenanceCallback, limits
from lightning_dtool.capture.code import Sources, collect_code
from lightning_dtool.loading.unpacking import read_sources
from lightning_dtool.record import Code, Gaps
from lightning_dtool.redaction.source import redact_source
from lightning_dtool.values.parsing import SAFE_IN_THREADS

REPORT = """
import json, os, sys
from lightning_dtool.capture.code import collect_code
def report():
    sealed = collect_code().seal()
    assert collect_code().seal().zip == sealed.zip
    open(os.environ["SOURCE_ZIP"], "wb").write(sealed.zip)
    print(json.dumps({"code": sealed.code.model_dump(), "gaps": [gap.model_dump() for gap in sealed.gaps]}))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    write(root, {"scripts/train.py": "import leaves.net\n" + REPORT + "report()\n", "src/leaves/__init__.py": "",
                 "src/leaves/net.py": "from . import blocks", "src/leaves/blocks.py": "X = 1", "src/leaves/unused.py": ""})  # fmt: skip  # noqa: E501
    return root


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def committed(root: Path) -> str:
    git(root, "init", "-q", "-b", "main")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "x")
    return git(root, "rev-parse", "HEAD")


def run(
    project: Path, *arguments: str, cwd: Path | None = None, fresh: bool = False, **environment: str
) -> dict[str, Any]:
    zipped = project.parent / "source.zip"
    path = os.pathsep.join([str(project / "src"), environment.pop("more", "")])
    variables = {"PYTHONPATH": path, "SOURCE_ZIP": str(zipped), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = programs.run(*arguments, cwd=cwd or project, env={**os.environ, **variables}, fresh=fresh)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert sorted(zipfile.ZipFile(zipped).namelist()) == sorted(found["code"]["files"])
    return found


ALL = ["scripts/train.py", "src/leaves/__init__.py", "src/leaves/blocks.py", "src/leaves/net.py"]


def test_a_script_in_a_git_repository_is_recorded_with_its_modules(project: Path) -> None:
    commit = committed(project)
    before = {path: path.stat().st_mtime_ns for path in (project / ".git").rglob("*")}
    os.utime(project / "src/leaves/net.py", (1, 1))  # git may try to refresh its index
    found = run(project, "scripts/train.py", "--lr=1", fresh=True)["code"]
    assert list(found["files"]) == ALL
    assert found["entry_point"] == "scripts/train.py"
    assert found["modules"]["leaves.net"] == "src/leaves/net.py"
    assert found["argv"] == ["scripts/train.py", "--lr=1"]
    assert found["git"] == {"remote": None, "commit": commit, "branch": "main", "dirty": False}
    assert {path: path.stat().st_mtime_ns for path in (project / ".git").rglob("*")} == before


def test_changed_and_untracked_files_are_recorded(project: Path) -> None:
    committed(project)
    write(project, {"src/leaves/net.py": "from . import blocks, new", "src/leaves/new.py": ""})
    found = run(project, "scripts/train.py")["code"]
    assert found["git"]["dirty"] is True
    assert "src/leaves/new.py" in found["files"]


def test_the_variables_of_a_git_hook_do_not_lead_to_another_repository(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write(other, {"a": ""})
    commit, foreign = committed(project), committed(other)
    found = run(project, "scripts/train.py", GIT_DIR=str(other / ".git"), GIT_INDEX_FILE=str(other / ".git/index"))
    assert found["code"]["git"]["commit"] == commit != foreign


def test_without_git_the_project_file_marks_the_root(project: Path) -> None:
    write(project, {"pyproject.toml": ""})
    found = run(project, "scripts/train.py")
    assert list(found["code"]["files"]) == ALL
    assert found["code"]["git"] is None
    assert "code.git" in [gap["fact"] for gap in found["gaps"]]


def test_modules_outside_the_project_are_stored_in_a_folder_of_their_own(project: Path) -> None:
    found = run(project, "scripts/train.py")
    outside = [f"outside/{path.removeprefix('src/')}" for path in ALL if path.startswith("src/")]
    assert list(found["code"]["files"]) == [*outside, "train.py"]
    assert found["code"]["modules"]["leaves.net"] == "outside/leaves/net.py"
    assert "code.modules" not in [gap["fact"] for gap in found["gaps"]]


def test_installed_packages_are_left_out(project: Path) -> None:
    committed(project)
    packages = project / ".venv/lib/python3.11/site-packages"
    write(packages, {"third/__init__.py": ""})
    write(project, {"scripts/train.py": "import third\n" + (project / "scripts/train.py").read_text()})
    found = run(project, "scripts/train.py", more=str(packages))
    assert list(found["code"]["files"]) == ["git.patch", *ALL]
    assert [gap for gap in found["gaps"] if gap["fact"] == "code.modules"] == []


def test_a_module_run_as_the_main_program_is_the_entry_point(project: Path) -> None:
    committed(project)
    write(project, {"src/leaves/train.py": "from . import net\n" + REPORT + "report()\n"})
    found = run(project, "-m", "leaves.train", fresh=True)["code"]
    assert found["entry_point"] == "src/leaves/train.py"
    assert "leaves.blocks" in found["modules"]


def test_a_script_without_a_suffix_run_through_a_link_is_the_entry_point(project: Path, tmp_path: Path) -> None:
    committed(project)
    (project / "scripts/train.py").rename(project / "scripts/train")
    link = tmp_path / "elsewhere"
    link.symlink_to(project / "scripts/train")
    found = run(project, str(link), cwd=tmp_path, fresh=True)["code"]
    assert found["entry_point"] == "scripts/train"
    assert found["git"] is not None


def test_a_prompt_has_no_entry_point(project: Path) -> None:
    found = run(project, "-c", REPORT + "report()", fresh=True)
    assert found["code"]["entry_point"] is None
    assert "code.entry_point" in [gap["fact"] for gap in found["gaps"]]


def test_the_cells_of_a_notebook_are_recorded(project: Path) -> None:
    cells = [
        "",
        "%matplotlib inline\nX = 1",
        "class Net:",
        "y = (7\n% 4)",
        "!ls",
        "class Net:\n    x = X\n    name = 'Blätter'",
    ]
    write(project, {"src/notebook.py": ""})
    committed(project)
    found = run(project, "-c", f"import notebook\n{REPORT}\nIn = {cells!r}\nget_ipython = None\nreport()")["code"]
    assert found["entry_point"] == "notebook.py"
    assert found["modules"] == {"__main__": "notebook.py", "notebook": "src/notebook.py"}
    space: dict[str, Any] = {}
    exec(zipfile.ZipFile(project.parent / "source.zip").read("notebook.py"), space)
    assert space["Net"].x == 1
    assert space["y"] == 3


def test_a_notebook_and_a_module_of_the_same_name_are_kept_apart(project: Path) -> None:
    write(project, {"notebook.py": "Z = 1"})
    found = run(project, "-c", f"import notebook\n{REPORT}\nIn = ['', 'X = 1']\nget_ipython = None\nreport()")["code"]
    assert found["modules"]["notebook"] == "notebook.py"
    assert found["modules"]["__main__"] == "_notebook.py"


def test_undecodable_arguments_and_a_deleted_working_directory_are_recorded(project: Path) -> None:
    program = REPORT + "import shutil\nos.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\nreport()"
    found = run(project, "-c", program, os.fsdecode(b"caf\xe9.csv"))["code"]
    assert found["working_directory"] == ""
    assert found["argv"][1] == "caf\\udce9.csv"


def test_a_lazy_module_is_not_loaded(project: Path) -> None:
    program = (
        REPORT
        + """
import importlib.util
spec = importlib.util.find_spec("leaves.unused")
spec.loader = importlib.util.LazyLoader(spec.loader)
module = importlib.util.module_from_spec(spec)
sys.modules["leaves.unused"] = module
spec.loader.exec_module(module)
class Odd:
    def __getattr__(self, name): raise RuntimeError
sys.modules["odd"] = Odd()
sys.modules["none"] = None
report()
assert type(module).__name__ == "_LazyModule"
"""
    )
    run(project, "-c", program + "print(json.dumps({'code': {'files': []}})) if False else None")


def test_large_sources_are_bounded(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_SOURCE_BYTES", 100)
    gaps = Gaps()
    kept = code_module._bounded({"a.py": b"x" * 60, "b.py": b"x" * 30, "main.py": b"x" * 50}, ("main.py",), gaps)
    assert sorted(kept) == ["b.py", "main.py"]
    assert [gap.fact for gap in gaps] == ["code.files.a.py"]


def test_source_archives_stay_within_the_limits_of_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """This holds even if redaction makes files longer, and with a patch and a configuration."""
    monkeypatch.setattr(limits, "MAX_SOURCE_BYTES", 400)
    monkeypatch.setattr(limits, "MAX_SOURCE_FILES", 5)
    secrets = b"".join(b"password%d = 'hunter%d'\n" % (number, number) for number in range(12))
    sources = {f"{name}.py": secrets[: 40 * size] for size, name in enumerate("abcdef", 1)}
    code = Code(
        argv=[],
        working_directory="",
        entry_point="f.py",
        patch=code_module.PATCH,
        modules={name: f"{name}.py" for name in "abcdef"},
    )
    packed = code_module.Sources(code, {**sources, code_module.PATCH: b"x" * 50}, {"config.yaml": b"y" * 60}, [])
    sealed = packed.seal()
    read = read_sources(sealed.zip, "file:///a")
    assert read.keys() == sealed.code.files.keys() >= {"config.yaml", code_module.PATCH}
    assert set(sealed.code.modules.values()) <= read.keys()
    assert {gap.fact.removeprefix("code.files.") for gap in sealed.gaps} >= sources.keys() - read.keys()
    assert sources.keys() - read.keys()
    assert all(path in (None, *read) for path in (sealed.code.entry_point, sealed.code.patch))


def test_here() -> None:
    sealed = collect_code().seal()
    assert sealed.code.files.keys() >= {"tests/capture/test_code.py"} or sealed.code.git is None
    assert sealed.zip[:2] == b"PK"


def test_the_patch_restores_changed_and_untracked_files(project: Path, tmp_path: Path) -> None:
    committed(project)
    git(project, "config", "diff.noprefix", "true")
    git(project, "config", "color.ui", "always")
    write(project, {"src/leaves/net.py": "from . import blocks, new\n", "src/leaves/new.py": "X = 1"})
    found = run(project, "scripts/train.py")["code"]
    assert found["untracked"] == ["src/leaves/new.py"]
    patch = zipfile.ZipFile(project.parent / "source.zip").read(found["patch"])
    assert hashlib.sha256(patch).hexdigest() == found["files"][found["patch"]]
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(project), str(clone))
    (tmp_path / "x.patch").write_bytes(patch)
    git(clone, "apply", str(tmp_path / "x.patch"))
    assert (clone / "src/leaves/net.py").read_text() == "from . import blocks, new\n"


def test_a_clean_tree_has_no_patch(project: Path) -> None:
    committed(project)
    found = run(project, "scripts/train.py")["code"]
    assert (found["patch"], found["untracked"], found["run_as_module"]) == (None, [], None)


def test_a_huge_patch_is_a_gap(project: Path) -> None:
    write(project, {"big.txt": ""})
    committed(project)
    write(project, {"big.txt": "x" * 70 + "\n" + "y" * 11 * 2**20})
    found = run(project, "scripts/train.py")
    assert found["code"]["patch"] is None
    assert found["code"]["git"]["dirty"] is True
    assert "code.patch" in [gap["fact"] for gap in found["gaps"]]


def test_changes_of_binary_files_are_a_gap(project: Path) -> None:
    files = {"new.bin", "old weights.bin", "renamed.bin"}
    write(project, {"old weights.bin": "\0a", "b.bin": "\0renamed" * 9, "notes.txt": "a"})
    committed(project)
    (project / "b.bin").rename(project / "renamed.bin")
    write(project, {"old weights.bin": "\0hunter2", "renamed.bin": "\0renamed" * 9 + "2", "new.bin": "\0password"})
    write(project, {"notes.txt": "Binary files a/x and b/x differ\n"})
    git(project, "add", "-A")
    found = run(project, "scripts/train.py")
    patch = zipfile.ZipFile(project.parent / "source.zip").read(found["code"]["patch"])
    assert b"+Binary files a/x and b/x differ" in patch
    assert not re.search(rb"\.bin|GIT binary", patch)
    gaps = [gap for gap in found["gaps"] if "binary" in gap["reason"]]
    assert {gap["fact"] for gap in gaps} == {f"code.patch.{name}" for name in files}


def test_the_name_of_a_module_run_with_m_is_recorded(project: Path) -> None:
    write(project, {"src/leaves/__main__.py": REPORT + "report()\n", "src/leaves/train.py": REPORT + "report()\n"})
    committed(project)
    assert run(project, "-m", "leaves")["code"]["run_as_module"] == "leaves"
    assert run(project, "-m", "leaves.train")["code"]["run_as_module"] == "leaves.train"


def test_the_notebook_file_is_kept_without_outputs(project: Path) -> None:
    cells = [{"cell_type": "code", "source": ["x = 1"], "outputs": [{"text": "hunter2"}], "execution_count": 1}]
    write(project, {"study.ipynb": json.dumps({"cells": cells, "nbformat": 4})})
    program = f"{REPORT}\nIn = ['', 'x = 1']\nget_ipython = None\nreport()"
    found = run(project, "-c", program, JPY_SESSION_NAME=str(project / "study.ipynb"))["code"]
    assert found["entry_point"] == "notebook.py"
    kept = json.loads(zipfile.ZipFile(project.parent / "source.zip").read("study.ipynb"))
    assert kept["cells"] == [{"cell_type": "code", "source": ["x = 1"], "outputs": [], "execution_count": 1}]


def test_each_file_is_searched_for_credentials_once_per_process(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[str] = []
    monkeypatch.setattr(code_module, "redact_source", lambda text: searched.append(text) or redact_source(text))
    clean, login = "width = 16  # searched once\n", 'api_key = "hunter2-very-secret"\n'
    files = {"net.py": clean.encode(), "login.py": login.encode()}
    for _ in range(2):
        sealed = Sources(Code(argv=[], working_directory=""), dict(files), {}, []).seal()
        assert [gap.fact for gap in sealed.gaps] == ["code.files.login.py"]
        assert b"hunter2" not in zipfile.ZipFile(io.BytesIO(sealed.zip)).read("login.py")
    assert searched == [clean, login]


def test_configuration_files_are_kept_and_sources_are_sealed_once() -> None:
    sources = collect_code({"config.yaml": b"lr: 1\n"})
    sealed = sources.seal()
    assert sources.seal() is sealed
    assert sealed.code.files["config.yaml"] == hashlib.sha256(b"lr: 1\n").hexdigest()
    with zipfile.ZipFile(io.BytesIO(sealed.zip)) as archive:
        assert archive.read("config.yaml") == b"lr: 1\n"
        digests = {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}
    assert digests == sealed.code.files


def test_modules_imported_later_are_noticed(project: Path) -> None:
    program = REPORT + (
        "from lightning_dtool.capture.code import project_modules_changed\nfrom counting import counted\n"
        "code = collect_code().seal().code\nassert not project_modules_changed(code)\nimport wave\n"
        "assert not project_modules_changed(code)\nimport leaves.blocks\nassert project_modules_changed(code)\n"
        "code = collect_code().seal().code\nassert not project_modules_changed(code)\n"
        "changed, calls = counted(project_modules_changed, code)\nassert (changed, calls < 20) == (False, True)\n"
        "report()"
    )
    committed(project)
    found = run(project, "-c", program, more=str(Path(__file__).parents[1]))
    assert "leaves.blocks" in found["code"]["modules"]


@pytest.mark.skipif(SAFE_IN_THREADS, reason="threads may parse at the same time in this Python")
def test_code_is_parsed_in_the_thread_that_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parse in another thread may break an `inspect.getsource` of the training's."""
    original, parsed = ast.parse, []

    def parse(source: Any, *arguments: Any, **options: Any) -> ast.AST:
        parsed.append((threading.current_thread() is threading.main_thread(), len(source)))
        return original(source, *arguments, **options)

    monkeypatch.setattr(ast, "parse", parse)
    (tmp_path / "models").mkdir()
    trainer(tmp_path, DtoolProvenanceCallback(str(tmp_path / "models"), background=True), max_epochs=2).fit(
        TinyNet(), loader()
    )
    assert parsed
    assert [size for in_main_thread, size in parsed if not in_main_thread] == []
