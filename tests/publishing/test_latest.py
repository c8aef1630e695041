"""The latest checkpoint, whose dataset a save of the same state shares."""

import io
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_dtool.publishing.account import Publication
from lightning_dtool.publishing.dataset import Staged
from lightning_dtool.publishing.latest import Latest
from lightning_dtool.publishing.standing import StandingFile

FINAL = "lightning-dtool://1/final"


def checkpoint(step: int = 2, epoch: int = 1, weight: float = 1.0) -> dict[str, Any]:
    return {"global_step": step, "epoch": epoch, "state_dict": {"w": torch.tensor([weight])}}


def published(path: str = "/run/a.ckpt") -> Publication:
    return Publication("net", {path}, "run", epoch=1, global_step=2, saved_at=datetime.now(timezone.utc))


def staged(**content: Any) -> Staged:
    return Staged(
        **{"state": None, **content},
        sealed=lambda: pytest.fail("nothing is published here"),
        creator_username="alice",
        requirements="",
        random_states="",
        run_status="running",
    )


def saved(state: dict[str, Any]) -> bytes:
    torch.save(state, stream := io.BytesIO())
    return stream.getvalue()


@pytest.mark.parametrize("where", ["bytes", "copy", "file"])
def test_best_and_last_of_one_step_are_the_same(tmp_path: Path, where: str) -> None:
    publication, latest = published(), Latest()
    (tmp_path / "a.ckpt").write_bytes(saved(checkpoint()))
    publication.standing = StandingFile.at(tmp_path / "a.ckpt")
    in_memory = {"bytes": staged(content=saved(checkpoint())), "copy": staged(state=checkpoint()), "file": None}
    latest.remember(publication, in_memory[where])
    assert latest.same_as(checkpoint(), "/run/last.ckpt") is publication
    assert latest.same_as(checkpoint(weight=2.0), "/run/last.ckpt") is None
    assert latest.same_as(checkpoint(step=3), "/run/last.ckpt") is None


def test_the_end_of_training_counts_up_the_epoch_of_the_same_weights() -> None:
    latest = Latest()
    latest.remember(publication := published(), staged(state=checkpoint()))
    assert latest.same_as(checkpoint(epoch=2), "/run/last.ckpt") is None
    assert latest.same_as(checkpoint(epoch=2), FINAL) is publication
    assert latest.same_as(checkpoint(epoch=2, weight=2.0), FINAL) is None


def test_a_copy_is_read_only_after_it_has_arrived() -> None:
    state, latest = checkpoint(weight=0.0), Latest()

    def arrive() -> None:
        state["state_dict"]["w"].fill_(1.0)

    latest.remember(publication := published(), staged(state=state, wait=arrive))
    assert latest.same_as(checkpoint(), "/run/last.ckpt") is publication


def test_it_counts_only_while_it_is_kept() -> None:
    latest = Latest()
    latest.remember(publication := published("/run/a.ckpt"), staged(state=checkpoint()))
    for lost in ("failed", "deleted", "omitted"):
        setattr(publication, lost, True)
        assert latest.same_as(checkpoint(), "/run/last.ckpt") is None
        setattr(publication, lost, False)
    publication.paths.clear()
    assert latest.same_as(checkpoint(), "/run/last.ckpt") is None
    publication.paths.add("/run/b.ckpt")
    assert latest.same_as(checkpoint(), "/run/last.ckpt") is publication
    latest.forget()
    assert latest.same_as(checkpoint(), "/run/last.ckpt") is None


def test_a_file_that_another_program_has_replaced_is_not_read(tmp_path: Path) -> None:
    publication, latest = published(), Latest()
    (tmp_path / "a.ckpt").write_bytes(saved(checkpoint()))
    publication.standing = StandingFile.at(tmp_path / "a.ckpt")
    latest.remember(publication, None)
    (tmp_path / "b.ckpt").write_bytes(saved(checkpoint()))
    (tmp_path / "b.ckpt").replace(tmp_path / "a.ckpt")
    assert latest.same_as(checkpoint(), "/run/last.ckpt") is None
