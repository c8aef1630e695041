"""Memory for copies: kept, bounded, and touched ahead."""

import threading
import time
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_dtool.snapshot import staging as staging_module
from lightning_dtool.snapshot.copy import snapshot, storage_sizes
from lightning_dtool.snapshot.staging import Staging

LARGE = 64 * 1024


def state(*sizes: int, value: float = 0.0) -> dict[str, torch.Tensor]:
    return {str(number): torch.full((size // 4,), value) for number, size in enumerate(sizes)}


def places(copied: dict[str, torch.Tensor]) -> set[int]:
    return {tensor.data_ptr() for tensor in copied.values()}


def test_the_next_copy_lies_where_the_last_one_was() -> None:
    staging = Staging()
    first = places(snapshot(state(LARGE, LARGE, 2 * LARGE), staging))
    second = snapshot(state(LARGE, LARGE, 2 * LARGE, value=1.0), staging)
    assert places(second) == first
    assert staging.nbytes == 4 * LARGE
    assert all(torch.equal(tensor, torch.ones_like(tensor)) for tensor in second.values())


def test_memory_that_was_reserved_is_used() -> None:
    staging = Staging()
    sizes = storage_sizes(state(LARGE, 3 * LARGE, 16))
    staging.reserve(sizes)
    assert staging.nbytes == 4 * LARGE
    staging.reserve([*sizes, 2 * LARGE])  # as when an optimizer gets its state: what is there stays
    assert staging.nbytes == 6 * LARGE
    snapshot(state(LARGE, 3 * LARGE, 16, 2 * LARGE), staging)
    assert staging.nbytes == 6 * LARGE


@given(st.lists(st.lists(st.integers(1, 6), max_size=6), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_it_never_holds_more_than_the_largest_state_needed(history: list[list[int]]) -> None:
    staging = Staging()
    largest = 0
    for number, sizes in enumerate(history):
        original = state(*(LARGE * size for size in sizes), value=float(number))
        copied = snapshot(original, staging)
        largest = max(largest, sum(LARGE * size for size in sizes))
        assert staging.nbytes <= largest
        assert all(torch.equal(copied[name], original[name]) for name in original)


def test_a_limit_refuses_what_is_larger() -> None:
    staging = Staging(limit=3 * LARGE)
    assert staging.fits(3 * LARGE)
    assert not staging.fits(3 * LARGE + 1)
    staging.reserve([2 * LARGE, 2 * LARGE])
    assert staging.nbytes == 0


def test_by_default_the_limit_is_what_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    staging = Staging()
    monkeypatch.setattr(staging_module, "available_memory", lambda: 10 * LARGE)
    assert staging.fits(8 * LARGE)
    assert not staging.fits(9 * LARGE)
    monkeypatch.setattr(staging_module, "available_memory", lambda: None)
    assert staging.fits(2**60)


def test_what_is_released_can_still_be_read() -> None:
    staging = Staging()
    copied = snapshot(state(LARGE, value=2.0), staging)
    staging.release()
    assert staging.nbytes == 0
    snapshot(state(LARGE, value=3.0), staging)
    assert torch.equal(copied["0"], torch.full((LARGE // 4,), 2.0))


def test_after_ctrl_c_no_thread_writes_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next copy may go to the same memory, with other tensors in other places."""
    copy_all, copied, main = staging_module._copy_all, list[int](), threading.main_thread()

    def interrupted(pairs: Any) -> None:
        if threading.current_thread() is main:
            raise KeyboardInterrupt
        time.sleep(0.2)
        copy_all(pairs)
        copied.append(len(pairs))

    monkeypatch.setattr(staging_module, "_THREADS", 2)
    monkeypatch.setattr(staging_module, "_copy_all", interrupted)
    staging = Staging()
    with pytest.raises(KeyboardInterrupt):
        snapshot(state(LARGE, LARGE, LARGE, LARGE), staging)
    assert copied == [2]
    staging.release()


def test_one_core_copies_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging_module, "_THREADS", 1)
    staging = Staging()
    copied = snapshot(state(LARGE, 2 * LARGE, value=1.0), staging)
    assert all(torch.equal(tensor, torch.ones_like(tensor)) for tensor in copied.values())
    assert staging._threads is None
