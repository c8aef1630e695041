"""Credentials in more than 200 places of a project: none is found in what a training writes, except for a reason."""

import re
from pathlib import Path

import pytest

import planted
from lightning_dtool.redaction.text import redact_text


@pytest.mark.slow
def test_no_planted_credential_is_published(tmp_path: Path) -> None:
    where, found = planted.leaks(tmp_path / "home")
    assert len(where) >= 200
    assert {place: names for place, names in found.items() if planted.reason(place, names) is None} == {}
    assert sum(place.startswith("hparam") for place in found) >= 5  # the search does find what is there


@pytest.mark.parametrize("text", [planted.SHELL, planted.CONFIG])
def test_credentials_in_commands_and_configurations_are_redacted(text: str) -> None:
    lines = text.strip().split("\n")
    marked = "\n".join(line.replace("{}", f"Zq{number:03d}Kx8fT3") for number, line in enumerate(lines))
    left = [int(number) for number in re.findall(r"Zq(\d+)Kx8fT3", redact_text(marked))]
    assert [lines[number] for number in left if f"patch shell: {lines[number]}" != planted.UNNAMED] == []
