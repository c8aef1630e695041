"""The state of a git work tree: commit, branch, remote, changes since the commit, and tracked files."""

import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lightning_dtool.record import Gaps, Git, as_text
from lightning_dtool.redaction.record import add_redaction
from lightning_dtool.redaction.secret_files import is_secret_file
from lightning_dtool.redaction.text import redact_text

MAX_PATCH_BYTES = 10 * 2**20
"""Maximum size of a patch in bytes. A larger patch is left out."""


@dataclass(frozen=True)
class GitState:
    """The state of a git work tree. All fields are None if there is no work tree."""

    git: Git | None = None
    patch: bytes | None = None
    """The changes since the commit, in the format of `git apply`."""
    tracked: frozenset[str] | None = None
    """The tracked files."""


class WorkTree:
    """A git work tree. All git commands run in parallel in the background.

    Use it in a `with` block. No thread is left at the end of the block, because training may fork processes.

    Args:
        root: The folder of the work tree.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._pool = ThreadPoolExecutor(max_workers=6, thread_name_prefix="lightning-dtool-git")
        self._commit = self._pool.submit(_git, root, "rev-parse", "HEAD")
        self._branch = self._pool.submit(_git, root, "rev-parse", "--abbrev-ref", "HEAD")
        self._remote = self._pool.submit(_git, root, "remote", "get-url", "origin")
        self._changes = self._pool.submit(_git, root, "status", "--porcelain", "--untracked-files=no")
        self._tracked = self._pool.submit(_git, root, "ls-files", "-z")
        self._patch = self._pool.submit(_git_patch, root)

    def __enter__(self) -> "WorkTree":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def state(self, gaps: Gaps) -> GitState:
        """Wait for the git commands and return the state.

        Args:
            gaps: Receives a gap for everything that git did not report.
        """
        commit = self._commit.result()
        if not commit:
            gaps.at("code.git").add(*self._why_no_commit())
            return GitState()
        branch, changes, tracked = self._branch.result(), self._changes.result(), self._tracked.result()
        if changes is None:
            gaps.at("code.git.dirty").add("git did not answer in time", "try: git status")
        git = Git(
            remote=self._shown_remote(gaps),
            commit=commit,
            branch=branch if branch != "HEAD" else None,
            dirty=bool(changes) if changes is not None else None,
        )
        known = None if tracked is None else frozenset(filter(None, tracked.split("\0")))
        return GitState(git, self._kept_patch(gaps), known)

    def _why_no_commit(self) -> tuple[str, str]:
        """Return the reason and the remedy."""
        if not (self._root / ".git").exists():
            return "the code is not in a git repository", "commit the code to a git repository"
        if _git(self._root, "rev-parse", "--git-dir") is not None:
            return "the git repository has no commit yet", "commit the code"
        return "git named no commit (is git installed, and does the repository belong to you?)", "try: git status"

    def _shown_remote(self, gaps: Gaps) -> str | None:
        remote = self._remote.result()
        if not remote:
            return None
        shown = redact_text(remote)
        if shown != remote:
            add_redaction(gaps.at("code.git.remote"))
        return shown

    def _kept_patch(self, gaps: Gaps) -> bytes | None:
        patch = self._patch.result()
        if patch is None:
            gaps.at("code.patch").add("git did not answer in time", "try: git diff HEAD")
        elif len(patch) > MAX_PATCH_BYTES:
            reason = f"the changes since the commit exceed {MAX_PATCH_BYTES} bytes"
            gaps.at("code.patch").add(reason, "commit them, or keep data out of git")
            return None
        return patch if patch is None else _without_unsearched(patch, gaps)

    def ignored(self, paths: Sequence[str]) -> frozenset[str]:
        """Return those of some files that git ignores. None of them is tracked.

        Args:
            paths: Files, relative to the work tree.
        """
        if not paths:
            return frozenset()
        with tempfile.TemporaryFile() as names:
            names.write("\0".join(paths).encode())
            names.seek(0)
            found = _git_output(self._root, ("check-ignore", "-z", "--stdin"), given=names)
        return frozenset(filter(None, (found or b"").decode(errors="replace").split("\0")))


_NOTEBOOK = "a notebook holds the outputs of its cells, which may show anything"
_OF_SECRETS = "its name is that of a file with credentials"
_BINARY = "it is a binary file, in which credentials would not be found"


def _without_unsearched(patch: bytes, gaps: Gaps) -> bytes:
    """Leave out the changes of files that may hold credentials, or data in outputs, and cannot be redacted."""
    kept = []
    for part in re.split(rb"^(?=diff --git )", patch, flags=re.MULTILINE):
        header = part.partition(b"\n")[0].decode(errors="replace")
        # Git quotes the names of some files. Both names count: a file may have been renamed.
        names = [name.strip('" ') for name in re.split(r'(?:^diff --git |[ "])"?[ab]/', header)[1:]]
        reasons = [
            _NOTEBOOK if name.endswith(".ipynb") else _OF_SECRETS if is_secret_file(name) else "" for name in names
        ]
        if re.search(rb"^Binary files ", part, re.MULTILINE):  # lines of a text begin with a sign
            reasons.append(_BINARY)
        if any(reasons):
            reason = f"its changes since the commit are not stored: {next(filter(None, reasons))}"
            gaps.at(f"code.patch.{as_text(names[-1])}").add(reason, "commit what the code needs")
        else:
            kept.append(part)
    return b"".join(kept)


def _git(root: Path, *arguments: str) -> str | None:
    answer = _git_output(root, arguments)
    return answer.decode(errors="replace").strip() if answer is not None else None


def _git_patch(root: Path) -> bytes | None:
    """Return the changes since the commit. Of binary files, it only says that they differ.

    Changes that are too long are cut after the limit.
    """
    arguments = ("-c", "diff.autoRefreshIndex=false", "diff", "HEAD", "--no-ext-diff", "--no-textconv",
                 "--no-color", "--submodule=short", "--src-prefix=a/", "--dst-prefix=b/")  # fmt: skip
    patch = _git_output(root, arguments, MAX_PATCH_BYTES + 1)  # one more byte shows that the limit is exceeded
    if patch is None:
        return None
    # Because the index is not refreshed, git may list files whose content has not changed. These parts have one line.
    parts = re.split(rb"^(?=diff --git )", patch, flags=re.MULTILINE)
    return b"".join(part for part in parts if part.count(b"\n") > 1)


def _git_output(root: Path, arguments: Sequence[str], limit: int = -1, given: IO[bytes] | None = None) -> bytes | None:
    """Return up to `limit` bytes of the output of a git command. None if it fails or takes more than ten seconds."""
    # A git hook passes GIT_DIR and GIT_INDEX_FILE on to the programs that it starts. They may refer to another
    # repository, so they are removed. GIT_OPTIONAL_LOCKS=0 keeps git from writing to the user's index, and
    # fsmonitor=false keeps it from starting a daemon.
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        process = subprocess.Popen(  # noqa: S603
            ["git", "-c", "core.fsmonitor=false", "-C", str(root), *arguments],  # noqa: S607
            stdin=subprocess.DEVNULL if given is None else given,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**ours, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except OSError:
        return None
    watchdog = threading.Timer(10, process.kill)
    watchdog.start()
    try:
        with process:
            assert process.stdout is not None  # noqa: S101  # because of stdout=PIPE
            output = process.stdout.read(limit)
            cut = 0 <= limit <= len(output)
            if cut:
                process.kill()
        return output if cut or process.returncode == 0 else None
    finally:
        watchdog.cancel()
