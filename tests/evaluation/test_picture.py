"""Pictures of confusion matrices."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lightning_dtool.evaluation.picture import confusion_picture


@pytest.mark.parametrize("count", [2, 10, 50, 300])
def test_a_picture_of_any_size_changes_no_setting_of_matplotlib(count: int) -> None:
    import matplotlib

    def settings() -> dict[str, Any]:
        # Reading the backend would select one.
        return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}

    def backend() -> object:
        return dict.__getitem__(matplotlib.rcParams, "backend")

    chosen, before = backend(), settings()
    names = [f"$x_{number}\x1b[31m中" for number in range(count)]
    content = confusion_picture(np.eye(count, dtype=int).tolist(), names, "$title\n" * 30)
    assert content is not None
    with Image.open(io.BytesIO(content)) as picture:
        picture.load()
        assert max(picture.size) < 3000
    assert backend() == chosen
    assert settings() == before
