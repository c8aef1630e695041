"""The cells of a notebook session, and the notebook's file."""

import json
import os
import re
import sys
from pathlib import Path

from lightning_dtool.record import Gaps, as_text
from lightning_dtool.values.parsing import parse


def notebook_cells() -> str | None:
    """Return the cells that IPython has run, as one Python source. None outside IPython."""
    cells = getattr(sys.modules.get("__main__"), "In", None)
    if not isinstance(cells, list) or "get_ipython" not in dir(sys.modules["__main__"]):
        return None
    return "\n\n".join(f"# In[{number}]\n{_without_magics(str(cell))}" for number, cell in enumerate(cells) if cell)


def _without_magics(cell: str) -> str:
    """Return a cell as Python. IPython's magics, and a cell with a syntax error, become comments."""
    magics = re.sub(r"^([ \t]*)([%!?].*)$", r"\1pass  # \2", cell, flags=re.MULTILINE)
    for text in (cell, magics):
        try:
            parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        return text
    return "\n".join(f"# {line}" for line in cell.splitlines())


def notebook_file() -> Path | None:
    """Return the file of the running notebook, if Jupyter or an editor names it."""
    named = getattr(sys.modules["__main__"], "__vsc_ipynb_file__", None) or os.environ.get("JPY_SESSION_NAME")
    try:
        path = Path(named) if isinstance(named, str) else None
        return path if path is not None and path.suffix == ".ipynb" and path.is_file() else None
    except (OSError, ValueError):
        return None


def without_outputs(notebook: Path, gaps: Gaps) -> bytes:
    """Return a notebook without the outputs of its cells, which are not code and may contain anything."""
    try:
        content = json.loads(notebook.read_bytes())
        for cell in content["cells"]:
            cell.pop("attachments", None)
            if "outputs" in cell:
                cell["outputs"] = []
        return json.dumps(content, indent=1, ensure_ascii=False).encode()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"the notebook could not be read: {type(error).__name__}"
        gaps.at(f"code.files.{as_text(notebook.name)}").add(reason, "save the notebook")
        return b""
