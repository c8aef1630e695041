"""A pytest plugin for Lightning's own tests: with or without recording, and the outcome of each test in a file.

Variables: `OUTCOMES` names the file. With `RECORDED=1`, each test has a base URI of its own. Otherwise this package is
hidden from Lightning.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

RECORDED = os.environ.pop("RECORDED", "") == "1"
OUTCOMES = Path(os.environ.pop("OUTCOMES", "outcomes.jsonl"))

_BASE_URI = "LIGHTNING_DTOOL_BASE_URI"

_worst: dict[str, str] = {}
"""The outcomes of the tests that have begun: the worst of setup, call and teardown."""


def pytest_configure() -> None:
    if not RECORDED:
        from lightning_dtool import attach

        attach.callbacks = attach.no_callbacks = list


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    """Set the base URI outside of all fixtures: one of Lightning's compares the environment before and after a test."""
    if not RECORDED:
        return (yield)
    folder = tempfile.mkdtemp(prefix="lightning-dtool-recorded-")
    os.environ[_BASE_URI] = folder
    try:
        return (yield)
    finally:
        os.environ.pop(_BASE_URI, None)
        shutil.rmtree(folder, ignore_errors=True)


def pytest_runtest_logreport(report: Any) -> None:
    """Note the outcome of a test, also if a later one ends the process."""
    if report.failed or _worst.get(report.nodeid) != "failed":
        _worst[report.nodeid] = report.outcome if report.when == "call" or not report.passed else "passed"
    if report.when == "teardown":
        with OUTCOMES.open("a", encoding="utf-8") as file:
            file.write(json.dumps([report.nodeid, _worst.pop(report.nodeid)]) + "\n")
