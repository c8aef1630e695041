"""The state of git: commit, branch, remote, what has changed since, and which files it knows."""

import os
import re
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lightning_dtool.record import Gaps, Git
from lightning_dtool.redaction.record import add_redaction
from lightning_dtool.redaction.text import redact_text

MAX_PATCH_BYTES = 10 * 2**20
"""A larger patch is left out."""


@dataclass(frozen=True)
class GitState:
    """The state of a git work tree. Everything is None if there is none."""

    git: Git | None = None
    patch: bytes | None = None
    """The changes since the commit, as `git apply` takes them."""
    tracked: frozenset[str] | None = None
    """The files that git knows."""


class WorkTree:
    """A git work tree. All commands run at once in the background, so that it takes as long as the slowest.

    Use it in a `with` block, at whose end no thread is left: training may fork processes.

    Args:
        root: Its folder.
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
        """Wait for the answers.

        Args:
            gaps: Receives a gap for whatever git did not answer.
        """
        commit = self._commit.result()
        if not commit:
            reason, remedy = "the code is not in a git repository with a commit", "commit it to one"
            if (self._root / ".git").exists():
                reason = "git did not name a commit (is it installed, and the repository yours?)"
                remedy = "try: git status"
            gaps.at("code.git").add(reason, remedy)
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
        return patch


def _git(root: Path, *arguments: str) -> str | None:
    answer = _git_output(root, arguments)
    return answer.decode(errors="replace").strip() if answer is not None else None


def _git_patch(root: Path) -> bytes | None:
    """Return the changes since the commit, as `git apply` takes them, up to one byte more than the limit."""
    arguments = ("-c", "diff.autoRefreshIndex=false", "diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv",
                 "--no-color", "--submodule=short", "--src-prefix=a/", "--dst-prefix=b/")  # fmt: skip
    patch = _git_output(root, arguments, MAX_PATCH_BYTES + 1)
    if patch is None:
        return None
    # Without a refreshed index git names files too that were only touched.
    parts = re.split(rb"^(?=diff --git )", patch, flags=re.MULTILINE)
    return b"".join(part for part in parts if part.count(b"\n") > 1)


def _git_output(root: Path, arguments: Sequence[str], limit: int = -1) -> bytes | None:
    """Return what a git command prints, at most `limit` bytes; None if it fails, or takes more than ten seconds."""
    # GIT_OPTIONAL_LOCKS=0: looking must not write to the user's index. A program that a git hook starts
    # inherits GIT_DIR and GIT_INDEX_FILE, which may mean another repository. And no daemon of git's.
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        process = subprocess.Popen(  # noqa: S603
            ["git", "-c", "core.fsmonitor=false", "-C", str(root), *arguments],  # noqa: S607
            stdin=subprocess.DEVNULL,
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
            assert process.stdout is not None  # noqa: S101  # it is a pipe
            output = process.stdout.read(limit)
            cut = 0 <= limit <= len(output)
            if cut:
                process.kill()
        return output if cut or process.returncode == 0 else None
    finally:
        watchdog.cancel()
