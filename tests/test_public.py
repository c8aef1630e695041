"""The public names: `lightning_dtool` and `lightning_dtool.errors` are all that users import from."""

import ast
import doctest
import inspect
import pickle
import re
import textwrap
import typing
from pathlib import Path
from typing import Any

import pytest

import lightning_dtool
from lightning_dtool import errors

ROOT = Path(__file__).resolve().parent.parent
NAMES = [name for name in lightning_dtool.__all__ if name != "__version__"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))
PUBLIC = {"lightning_dtool": {*lightning_dtool.__all__, "errors"}, "lightning_dtool.errors": set(vars(errors))}


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_says_where_it_is_imported_from(name: str) -> None:
    found = getattr(lightning_dtool, name)
    assert found.__qualname__ == name
    assert found.__module__ == ("lightning_dtool.errors" if hasattr(errors, name) else "lightning_dtool")
    assert pickle.loads(pickle.dumps(found)) is found
    assert inspect.getdoc(found)


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_in_the_reference(name: str) -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    assert f"\n::: lightning_dtool.{name}\n" in pages or hasattr(errors, name)


@pytest.mark.parametrize(
    "name", ["DtoolCheckpointIO", "DtoolDataModule", "DtoolDataset", "DtoolProvenanceCallback", "ResumableSampler"]
)
def test_the_type_of_every_argument_that_a_configuration_can_give_resolves(name: str) -> None:
    arguments = getattr(lightning_dtool, name).__init__
    assert set(inspect.signature(arguments).parameters) - {"self"} == set(typing.get_type_hints(arguments)) - {"return"}


@pytest.mark.parametrize("name", NAMES)
def test_asking_for_the_source_never_gives_that_of_something_else(name: str) -> None:
    found = getattr(lightning_dtool, name)
    try:
        source = inspect.getsource(found)
    except OSError:
        return
    assert re.search(rf"^(class|def) {name}\b", source, re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_examples_of_public_names_run(name: str) -> None:
    """pytest itself passes over classes whose `__module__` is not the file that they are defined in."""
    public = {**vars(errors), **{public: getattr(lightning_dtool, public) for public in NAMES}}
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    for test in finder.find(public[name], name, module=False, globs=public):  # type: ignore[arg-type]
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.parametrize("name", NAMES)
def test_code_in_docstrings_is_python_and_names_what_is_public(name: str) -> None:
    for found in [getattr(lightning_dtool, name), *vars(getattr(lightning_dtool, name)).values()]:
        for code in re.findall(r"```python\n(.*?)```", inspect.getdoc(found) or "", re.DOTALL):
            tree = ast.parse(textwrap.dedent(code))
            assert _private_imports(tree) == []
            asked = {
                node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is_package(node.value)
            }
            assert asked <= PUBLIC["lightning_dtool"]


@pytest.mark.parametrize("path", [*PAGES, *EXAMPLES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_pages_and_examples_name_no_private_module(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"\blightning_dtool[.:](\w+)", text)) <= PUBLIC["lightning_dtool"]
    if path.suffix == ".py":
        assert _private_imports(ast.parse(text)) == []
        return
    for code in re.findall(r"^(?:```python.*?|<!-- run-hidden)\n(.*?)^(?:```|-->)", text, re.DOTALL | re.MULTILINE):
        assert _private_imports(ast.parse(code)) == []


def _private_imports(tree: ast.Module) -> list[str]:
    """Return what is imported from this package that is not public."""
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "lightning_dtool":
            public = PUBLIC.get(str(node.module), set())
            found += [f"{node.module}.{alias.name}" for alias in node.names if alias.name not in public]
        elif isinstance(node, ast.Import):
            own = [alias.name for alias in node.names if alias.name.partition(".")[0] == "lightning_dtool"]
            found += [name for name in own if name not in PUBLIC]
    return found


def _is_package(node: Any) -> bool:
    return isinstance(node, ast.Name) and node.id == "lightning_dtool"
