"""The READMEs of folders, which name existing tests and list every file."""

import re
from pathlib import Path

import pytest

import lightning_dtool

TESTS = Path(__file__).parent
READMES = sorted(Path(lightning_dtool.__file__).parent.glob("*/README.md"))


def test_folders_have_readmes() -> None:
    assert {"publishing", "resuming"} <= {readme.parent.name for readme in READMES}


@pytest.mark.parametrize("readme", READMES, ids=[readme.parent.name for readme in READMES])
def test_the_tests_named_in_a_readme_exist(readme: Path) -> None:
    text = readme.read_text(encoding="utf-8")
    files = {name.removeprefix("tests/") for name in re.findall(r"[\w/]*\btest_\w+\.py\b", text)}
    assert {name for name in files if not (TESTS / name).is_file()} == set()
    source = "\n".join(path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py"))
    named = set(re.findall(r"\btest_\w+\b(?!\.py)", text))
    assert named - set(re.findall(r"def (test_\w+)\(", source)) == set()


@pytest.mark.parametrize("folder", ["publishing", "resuming"])
def test_the_table_lists_every_file(folder: str) -> None:
    readme = next(readme for readme in READMES if readme.parent.name == folder)
    listed = set(re.findall(r"^\| `([\w/]+\.py)`", readme.read_text(encoding="utf-8"), re.MULTILINE))
    files = {path for path in readme.parent.rglob("*.py") if path.name != "__init__.py"}
    assert listed == {path.relative_to(readme.parent).as_posix() for path in files}
