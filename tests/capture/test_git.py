"""The recorded state of a git work tree, and the gaps where git gives no answer."""

import threading
from pathlib import Path

import pytest

import lightning_dtool.capture.git as room
from capture.work_trees import git
from lightning_dtool.capture.git import GitState, WorkTree
from lightning_dtool.record import Gaps


def asked(root: Path, gaps: Gaps) -> GitState:
    with WorkTree(root) as tree:
        return tree.state(gaps)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a work tree with one commit."""
    (tmp_path / "net.py").write_text("X = 1\n")
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "x")
    return tmp_path


def test_a_clean_tree_is_recorded_as_clean(root: Path) -> None:
    gaps, others = Gaps(), set(threading.enumerate())
    found = asked(root, gaps)
    assert found.git is not None
    assert (found.git.commit, found.git.branch) == (git(root, "rev-parse", "HEAD"), "main")
    assert (found.git.remote, found.git.dirty) == (None, False)
    assert (found.patch, found.tracked, list(gaps)) == (b"", {"net.py"}, [])
    assert not [each for each in set(threading.enumerate()) - others if each.name.startswith("lightning-dtool-git")]


def test_changes_on_a_detached_head_are_recorded(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    git(root, "checkout", "-q", "--detach")
    (root / "net.py").write_text("X = 2\n")
    (root / "new.py").write_text("")
    found = asked(root, Gaps())
    assert found.git is not None
    assert (found.git.branch, found.git.dirty, found.tracked) == (None, True, {"net.py"})
    clone = tmp_path_factory.mktemp("clone")
    git(clone, "clone", "-q", str(root), ".")
    (clone / "x.patch").write_bytes(found.patch or b"")
    git(clone, "apply", "x.patch")
    assert (clone / "net.py").read_text() == "X = 2\n"


def test_a_huge_patch_is_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_PATCH_BYTES", 100)
    (root / "net.py").write_text("X = 2\n" * 100)
    gaps = Gaps()
    assert asked(root, gaps).patch is None
    assert [(gap.fact, gap.reason) for gap in gaps] == [("code.patch", "the changes since the commit exceed 100 bytes")]


def test_a_folder_outside_git_has_no_state(tmp_path: Path) -> None:
    gaps = Gaps()
    found = asked(tmp_path, gaps)
    assert (found.git, found.patch, found.tracked) == (None, None, None)
    assert [gap.fact for gap in gaps] == ["code.git"]


def test_a_repository_without_a_commit_is_a_gap(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    gaps = Gaps()
    assert asked(tmp_path, gaps).git is None
    assert (gaps[0].reason, gaps[0].remedy) == ("the git repository has no commit yet", "commit the code")


def test_without_the_git_command_no_state_is_recorded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert asked(root, Gaps()).git is None


@pytest.mark.parametrize(("command", "fact"), [("status", "code.git.dirty"), ("diff", "code.patch")])
def test_a_tree_is_not_called_clean_when_git_does_not_answer(
    root: Path, monkeypatch: pytest.MonkeyPatch, command: str, fact: str
) -> None:
    real = room._git_output
    monkeypatch.setattr(room, "_git_output", lambda at, args, *rest: None if command in args else real(at, args, *rest))
    gaps = Gaps()
    found = asked(root, gaps)
    assert found.git is not None
    assert (found.git.dirty, found.patch) == ((None, b"") if command == "status" else (False, None))
    assert [gap.fact for gap in gaps] == [fact]


def test_the_url_of_the_remote_holds_no_secret(root: Path) -> None:
    git(root, "remote", "add", "origin", "https://me:hunter2-very-secret@git.example.org/lab/leaves.git")
    gaps = Gaps()
    found = asked(root, gaps).git
    assert found is not None
    assert found.remote == "https://[redacted]@git.example.org/lab/leaves.git"
    assert [gap.fact for gap in gaps] == ["code.git.remote"]
    git(root, "remote", "set-url", "origin", "git@example.org:lab/leaves.git")
    found = asked(root, gaps).git
    assert found is not None
    assert found.remote == "git@example.org:lab/leaves.git"


def test_changes_of_secret_files_and_notebooks_are_left_out(root: Path) -> None:
    for name in (".env", "nb.ipynb", "deploy key.pem", "straße.txt"):
        (root / name).write_text("old\n")
    git(root, "add", "-f", ".")
    git(root, "commit", "-q", "-m", "y")
    for name in (".env", "nb.ipynb", "deploy key.pem", "net.py", "straße.txt"):
        (root / name).write_text("patient 17\n" if name != "net.py" else "X = 3\n")
    gaps = Gaps()
    patch = (asked(root, gaps).patch or b"").decode()
    assert "+X = 3" in patch
    assert patch.count("patient 17") == 1  # only that of the text
    assert {gap.fact for gap in gaps} == {f"code.patch.{name}" for name in (".env", "nb.ipynb", "deploy key.pem")}


def test_git_says_which_files_it_ignores(root: Path) -> None:
    (root / ".gitignore").write_text("local*\n")
    for name in ("local one.py", "new.py"):
        (root / name).write_text("")
    with WorkTree(root) as tree:
        assert tree.ignored(["local one.py", "new.py"]) == {"local one.py"}
        assert tree.ignored([]) == frozenset()
