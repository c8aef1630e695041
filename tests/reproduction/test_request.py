"""Checks of the options of `reproduce` before anything runs."""

from typing import Any

import pytest

from lightning_dtool.errors import ConfigurationError
from lightning_dtool.reproduction.request import Request
from lightning_dtool.rerun import REPRODUCE


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"runs": 2}, r"runs=2: expected 0 or at least 3"),
        ({"runs": -1}, r"runs=-1"),
        ({"level": 1.0}, r"level=1\.0: expected a probability"),
        ({"env": "conda"}, r"env='conda': expected 'current' or 'create'"),
        ({"from_": "file:///a", "runs": 3}, r"runs=3: a run with another seed cannot go on"),
        ({"device": "cuda"}, r"device='cuda'"),
        ({"threads": 0}, r"threads=0"),
    ],
)
def test_conflicting_options_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Request(REPRODUCE, **given)


def test_compatible_options_are_accepted() -> None:
    Request(REPRODUCE).say("nothing")
    assert Request(REPRODUCE, runs=3, level=0.9, env="create", from_="parent", device="cpu", threads=2).runs == 3
