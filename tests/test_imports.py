"""The imports of the package, which every dtool command loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_dtool


@pytest.mark.parametrize("module", ["lightning_dtool", "lightning_dtool.errors", "lightning_dtool.record"])
def test_importing_loads_no_heavy_library(module: str) -> None:
    heavy = ["torch", "lightning", "dtoolcore", "numpy", *(["pydantic"] if not module.endswith("record") else [])]
    program = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", lightning_dtool.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(lightning_dtool, name) is getattr(lightning_dtool, name)
    assert name in dir(lightning_dtool)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="DtoolCheckpont"):
        lightning_dtool.DtoolCheckpont  # noqa: B018


def test_the_version_is_a_release_number() -> None:
    assert lightning_dtool.__version__[0].isdigit()


def test_no_module_of_the_store_is_imported_for_types_alone() -> None:
    """The import linter ignores such imports, so they could hide a cycle."""
    sources = Path(lightning_dtool.__file__).parent.joinpath("store").glob("*.py")
    blocks = [
        ast.unparse(node)
        for source in sources
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ]
    assert blocks
    assert not [block for block in blocks if "lightning_dtool" in block]
