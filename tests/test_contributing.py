"""CONTRIBUTING.md: its map of the house matches the code."""

import re
from pathlib import Path

import lightning_dtool

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(lightning_dtool.__file__).parent


def test_the_map_lists_every_module_and_folder() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = text.partition("<!-- begin: map -->")[2].partition("<!-- end: map -->")[0]
    named = re.findall(r"^([\w.]+/?)  ", listed, re.MULTILINE)
    found = [
        f"{path.name}/" if path.is_dir() else path.name
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    ]
    assert sorted(named) == sorted(found)


def test_every_folder_has_a_docstring_with_its_purpose() -> None:
    for initialiser in PACKAGE.glob("*/__init__.py"):
        first = initialiser.read_text(encoding="utf-8").partition("\n")[0]
        assert re.match(r'"""[A-Z]', first), f"{initialiser}: {first}"
