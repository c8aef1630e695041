"""The installed packages that define a model's classes, whatever the names of their modules."""

import importlib
import io
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torchvision
from lightning.pytorch.callbacks import ModelCheckpoint
from rich.console import Console
from torch import nn

from kit import TinyNet, loader, trainer
from lightning_dtool import DtoolCheckpoint, DtoolProvenanceCallback
from lightning_dtool.capture.libraries import distribution_of, model_libraries
from lightning_dtool.export.text.record import document
from lightning_dtool.record import Gaps

BLOCK = "import torch\nclass {}(torch.nn.Linear):\n    pass\n"
MODEL = """
import torch
from kit import TinyNet

class Model(TinyNet):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Linear(8, 3)
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder of installed packages whose names differ from those of their modules."""
    folder = tmp_path / "lib" / "site-packages"
    files = {
        "cells/__init__.py": MODEL,
        "cells_tools-1.2.3.dist-info/METADATA": "",
        "cells_tools-1.2.3.dist-info/RECORD": "cells/__init__.py,sha256=x,1\n",
        "cells-0.1.dist-info/METADATA": "",
        "cells-0.1.dist-info/RECORD": "other/cells/__init__.py,sha256=x,1\n",
        "shared/one/__init__.py": BLOCK.format("One"),
        "shared/two/__init__.py": BLOCK.format("Two"),
        "shared.one-1.0.dist-info/METADATA": "",
        "shared.one-1.0.dist-info/RECORD": "shared/one/__init__.py,,\n",
        "second-2.0.dist-info/METADATA": "",
        "second-2.0.dist-info/RECORD": "shared/two/__init__.py,,\n",
        "by_hand/__init__.py": BLOCK.format("ByHand"),
        "listless/__init__.py": BLOCK.format("Listless"),
        "listless-3.0.dist-info/METADATA": "",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] in ("cells", "shared", "by_hand", "listless")]:
        del sys.modules[name]


def classes(*paths: str) -> list[Any]:
    return [
        getattr(importlib.import_module(module), name) for module, _, name in (path.partition(":") for path in paths)
    ]


@pytest.mark.usefixtures("site")
def test_libraries_of_parts_and_bases_are_found_by_their_lists_of_files() -> None:
    cells, one, two, by_hand, listless = classes(
        "cells:Model", "shared.one:One", "shared.two:Two", "by_hand:ByHand", "listless:Listless"
    )

    class Own(cells):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList([one(1, 1), two(1, 1), by_hand(1, 1), listless(1, 1)])
            self.image = torchvision.ops.Conv2dNormActivation(1, 1)

    assert distribution_of(cells) == ("cells-tools", "1.2.3")
    assert distribution_of(Own) is None
    gaps = Gaps()
    assert model_libraries(Own(), gaps) == {
        "cells-tools": "1.2.3",
        "shared.one": "1.0",
        "second": "2.0",
        "listless": "3.0",
        "torchvision": metadata.version("torchvision"),
    }
    assert [gap.fact for gap in gaps] == ["environment.versions.by_hand"]
    assert model_libraries(torch.nn.Linear(1, 1), Gaps()) == {}


@pytest.mark.usefixtures("site")
def test_the_package_that_defines_the_model_is_recorded_and_shown(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (model,) = classes("cells:Model")
    provenance = DtoolProvenanceCallback(str(tmp_path / "models"))
    trainer(tmp_path, provenance, max_epochs=1).fit(model(), loader())
    record = DtoolCheckpoint.from_uri(provenance.uris[0]).record
    assert record.model.distribution == "cells-tools==1.2.3"
    assert record.environment.versions["cells-tools"] == "1.2.3"
    shown = io.StringIO()
    Console(file=shown, width=200).print(document(record, "name", "uri", {}))
    assert "cells-tools==1.2.3" in shown.getvalue()


def test_the_package_of_a_layer_that_comes_in_mid_run_is_recorded(tmp_path: Path, site: Path) -> None:
    layer = importlib.import_module("listless").Listless(8, 8)

    class Grow(L.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                pl_module.more = layer

    callback = DtoolProvenanceCallback(str(tmp_path), retention="all")
    trainer(tmp_path, callback, Grow(), ModelCheckpoint(tmp_path, save_top_k=-1), max_epochs=2).fit(TinyNet(), loader())
    before, after = (DtoolCheckpoint.from_uri(uri).record.environment.versions for uri in callback.uris)
    assert "listless" not in before
    assert after == {**before, "listless": "3.0"}


def test_a_model_of_the_user_belongs_to_no_package() -> None:
    assert distribution_of(TinyNet) is None
