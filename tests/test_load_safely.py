"""docs/how-to/load-safely.md: each rule about classes is held by a test."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
PAGE = ROOT.parent / "docs" / "how-to" / "load-safely.md"
RULES = "loading/test_recorded_class.py"
HELD = {
    "a class of a module that your program has imported": "test_a_loaded_class_is_taken_as_it_is",
    "a class of your script or notebook": (
        "test_a_class_of_the_running_script_is_taken_only_if_its_source_is_the_recorded_one"
    ),
    "a class of a module that is not imported yet": "test_a_lightning_module_of_the_users_own_code_is_imported",
    "a module in a dataset, or in a folder among datasets": "test_an_item_of_a_dataset_beside_the_script_does_not_run",
    "a module that Python's path does not lead to": (
        "test_the_command_line_finds_the_users_modules_in_its_folder_and_what_they_import"
    ),
    "a module in the environment that no installed distribution lists": (
        "test_files_of_the_environment_that_no_distribution_lists_do_not_run"
    ),
    "a module without a source file": "test_a_module_without_a_source_file_does_not_run",
    "a module of Python itself": "test_programs_and_pythons_own_modules_are_not_imported",
    "a program": "test_programs_and_pythons_own_modules_are_not_imported",
    "a class that the file does not define": (
        "test_a_module_of_the_users_that_defines_no_lightning_module_does_not_run"
    ),
    "a class inside a function": "test_a_name_that_is_no_path_of_a_class_is_refused",
    "a class whose bases do not show that it is a LightningModule": (
        "test_a_module_of_the_users_that_defines_no_lightning_module_does_not_run"
    ),
}
"""The test of each row of the table of rules."""


def rows() -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    table = text.partition("<!-- begin: rules -->")[2].partition("<!-- end: rules -->")[0]
    return re.findall(r"^\| ((?!The record)[^|:-][^|]*?) \|", table, re.MULTILINE)


def test_each_rule_has_a_test() -> None:
    tests = set(re.findall(r"^def (test_\w+)", (ROOT / RULES).read_text(encoding="utf-8"), re.MULTILINE))
    assert set(HELD.values()) <= tests
    assert len(rows()) == len(HELD)


@pytest.mark.parametrize("rule", HELD)
def test_each_test_holds_a_rule(rule: str) -> None:
    assert [row for row in rows() if row.startswith(rule)]
