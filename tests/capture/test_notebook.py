"""Recorded notebooks: the executed cells as Python, and the file without its outputs."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lightning_dtool.capture.notebook import notebook_cells, notebook_file, without_outputs
from lightning_dtool.record import Gaps


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return a main module like that of an IPython session."""
    module = ModuleType("__main__")
    module.In = ["", "x = 1", "%matplotlib inline\n!ls\ny = 2", "what?"]  # type: ignore[attr-defined]
    module.get_ipython = None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "__main__", module)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    return module


def test_cells_are_recorded_as_python(main: ModuleType) -> None:
    assert notebook_cells() == (
        "# In[1]\nx = 1\n\n# In[2]\npass  # %matplotlib inline\npass  # !ls\ny = 2\n\n# In[3]\n# what?"
    )


def test_a_script_has_no_cells(main: ModuleType) -> None:
    del main.get_ipython
    assert notebook_cells() is None


def test_the_notebook_file_is_found_where_the_front_end_names_it(
    main: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "leaves.ipynb"
    assert notebook_file() is None
    monkeypatch.setenv("JPY_SESSION_NAME", str(file))
    assert notebook_file() is None
    file.touch()
    assert notebook_file() == file
    main.__vsc_ipynb_file__ = str(tmp_path / "no.txt")  # type: ignore[attr-defined]
    assert notebook_file() is None
    main.__vsc_ipynb_file__ = "\0"  # type: ignore[attr-defined]
    assert notebook_file() is None


def test_outputs_are_removed(tmp_path: Path) -> None:
    file = tmp_path / "leaves.ipynb"
    cells = [{"source": "x", "outputs": [{"text": "secret"}], "attachments": {"a.png": "secret"}}, {"source": "words"}]
    file.write_text(json.dumps({"cells": cells}))
    assert json.loads(without_outputs(file, Gaps())) == {"cells": [{"source": "x", "outputs": []}, {"source": "words"}]}


@pytest.mark.parametrize("content", ["", "[]", '{"cells": 3}', '{"cells": [3]}'])
def test_a_damaged_file_is_a_gap(tmp_path: Path, content: str) -> None:
    file = tmp_path / "leaves.ipynb"
    file.write_text(content)
    gaps = Gaps()
    assert without_outputs(file, gaps) == b""
    assert [gap.fact for gap in gaps] == ["code.files.leaves.ipynb"]
