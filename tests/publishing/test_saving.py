"""What training waits for in a save."""

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_dtool.publishing.account import Account, Publication
from lightning_dtool.publishing.failures import Failures
from lightning_dtool.publishing.flight import Flight
from lightning_dtool.publishing.latest import Latest
from lightning_dtool.publishing.publisher import Publisher
from lightning_dtool.publishing.saving import Saver
from lightning_dtool.publishing.worker import Worker
from lightning_dtool.snapshot.staging import Staging


def test_last_is_filled_however_soon_the_best_of_the_same_step_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = Publication("net", {"best.ckpt"}, "run", epoch=0, global_step=1, saved_at=datetime.now(timezone.utc))

    class Faster(Worker):
        """A publishing thread that is done before `submit` returns."""

        def submit(self, function: Callable[..., object], *args: Any, **kwargs: Any) -> None:
            best.item = tmp_path / "item"
            best.item.write_bytes(b"the state")
            best.dataset_uri = f"file://{tmp_path}/net"
            function(*args, **kwargs)

    account, flight, worker = Account(), Flight(), Faster()
    publisher = Publisher(str(tmp_path), account, flight, Failures(str(tmp_path)), worker, "all", "auto")
    saver = Saver(account, flight, worker, publisher, Staging(), "auto")
    monkeypatch.setattr("lightning_dtool.publishing.saving.asking_policies", lambda: [ModelCheckpoint()])
    monkeypatch.setattr(Latest, "same_as", lambda *_: best)  # in flight
    last = tmp_path / "last.ckpt"
    assert saver.share({}, str(last), last, background=True)
    assert last.read_bytes() == b"the state"
    assert not flight.awaits(str(last))
    saver.close()
