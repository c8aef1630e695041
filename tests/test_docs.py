"""The documentation: its pages can be followed, its code runs, and its links work.

Each page is followed in a separate folder from top to bottom, as a reader would:

- a Python block with a `title` is saved under that name;
- a block after `<!-- run -->` is run: a Python block together with those around it, as in a notebook;
- `<!-- run-hidden … -->` holds Python that a reader does not see, such as the data of a page.

All other Python blocks must at least be valid Python and import only existing names from this package.
"""

import ast
import importlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import programs

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"<!-- run-hidden\n(?P<hidden>.*?)-->"
    r"|(?P<run><!-- run -->\n)?^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<code>.*?)^```",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A block of code in a page."""

    language: str
    code: str
    title: str | None
    runs: bool


def blocks(page: Path) -> list[Block]:
    """Return the blocks of code in a page, in order."""
    return [
        Block("python", found["hidden"], None, True)
        if found["hidden"] is not None
        else Block(found["language"], found["code"], found["title"], found["run"] is not None)
        for found in BLOCK.finditer(page.read_text(encoding="utf-8"))
    ]


def steps(page: Path) -> list[Block]:
    """Return the steps to follow a page. Consecutive Python blocks are one step."""
    done: list[Block] = []
    for block in blocks(page):
        if block.title is None and not block.runs:
            continue
        last = done[-1] if done else None
        if last and block.language == last.language == "python" and block.title is None and last.title is None:
            done[-1] = Block("python", last.code + block.code, None, True)
        else:
            done.append(block)
    return done


def ids(pages: list[Path]) -> list[str]:
    return [page.relative_to(ROOT).as_posix() for page in pages]


FOLLOWED = [page for page in PAGES if any(block.runs for block in blocks(page))]
PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]


@pytest.mark.parametrize("page", FOLLOWED, ids=ids(FOLLOWED))
def test_a_page_can_be_followed(page: Path, tmp_path: Path) -> None:
    folders = [programs.commands(), Path(sys.executable).parent, os.environ["PATH"]]
    environment = {**os.environ, "PATH": os.pathsep.join(map(str, folders))}
    for number, step in enumerate(steps(page)):
        if step.title is not None:
            (tmp_path / step.title).write_text(step.code, encoding="utf-8")
            continue
        if step.language == "python":
            script = tmp_path / f"step{number}.py"
            script.write_text(step.code, encoding="utf-8")
            programs.run(script.name, cwd=tmp_path, env=environment)
            continue
        assert step.language == "bash", f"{page} asks to run {step.language}"
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", step.code],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert result.returncode == 0, f"{page}:\n{step.code}\n{result.stdout}\n{result.stderr}"


@pytest.mark.parametrize("page", PYTHON, ids=ids(PYTHON))
def test_python_blocks_parse_and_import_existing_names(page: Path) -> None:
    for block in blocks(page):
        if block.language != "python":
            continue
        for node in ast.walk(ast.parse(block.code, str(page))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lightning_dtool"):
                module = importlib.import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_between_pages_have_targets(page: str) -> None:
    # mkdocs checks the links in docs/; these two pages are not part of the site.
    links = re.findall(r"\]\((?!https?://)([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_ci_finds_the_commands_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("quickstart", "tests"):
        marked = re.findall(rf"<!-- begin: {name} -->(.*?)<!-- end: {name} -->", readme, re.DOTALL)
        assert len(marked) == 1
        assert len(re.findall(r"^python -m venv \.venv && .*$", marked[0], re.MULTILINE)) == 1


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        check=True,
        timeout=240,
    )
    assert (tmp_path / "schema" / "provenance.schema.json").exists()
    # The hooks have replaced every marker for generated content.
    assert [page for page in tmp_path.rglob("*.html") if "<!-- generated" in page.read_text(encoding="utf-8")] == []
