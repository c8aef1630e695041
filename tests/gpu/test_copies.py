"""Copies of a state that is changed while they are made, on the CPU and on a CUDA device."""

import pytest
import torch

from gpu.devices import ON_GPU
from lightning_dtool.snapshot.copy import snapshot
from lightning_dtool.snapshot.staging import Staging

ELEMENTS = 8_000_000


def state(device: str, value: float) -> dict[str, torch.Tensor]:
    """Return tensors that are copied together, one of which is small."""
    return {
        "weight": torch.full((ELEMENTS,), value, device=device),
        "moments": torch.full((ELEMENTS // 4,), value, device=device, dtype=torch.float64),
        "half": torch.full((ELEMENTS,), value, device=device, dtype=torch.bfloat16),
        "step": torch.tensor(value, device=device),
    }


def test_a_copy_holds_what_there_was_when_it_was_taken(device: str) -> None:
    staging = Staging()
    original = state(device, 0.0)
    places: list[set[int]] = []
    for number in range(1, 5):
        for tensor in original.values():
            tensor.add_(1.0)
        copied = snapshot(original, staging)
        for _ in range(20):  # training goes on at once
            for tensor in original.values():
                tensor.mul_(2.0)
        staging.wait()
        for name, tensor in original.items():
            assert copied[name].device.type == "cpu"
            assert copied[name].dtype == tensor.dtype
            assert bool((copied[name] == number).all()), name
            tensor.fill_(float(number))
        places.append({copied[name].data_ptr() for name in ("weight", "moments", "half")})
    assert all(place == places[0] for place in places)  # the memory is reused
    staging.release()


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=ON_GPU)])
def test_training_does_not_wait_for_a_copy_from_the_device(device: str) -> None:
    staging = Staging()
    # Without small tensors, such as biases: copying one waits for the device, as reading a metric does.
    original = {"weight": state(device, 1.0)["weight"]}
    snapshot(original, staging)  # reserves the memory
    staging.wait()
    torch.cuda.synchronize()
    torch.cuda._sleep(500_000_000)  # the device is busy for some tenths of a second
    copied = snapshot(original, staging)
    assert not torch.cuda.current_stream().query()  # the copy was ordered, and the device is still at work
    assert copied["weight"].is_pinned()
    assert set(staging._streams) == {torch.device("cuda", 0)}
    assert staging._streams[torch.device("cuda", 0)] != torch.cuda.current_stream()
    staging.wait()
    assert bool((copied["weight"] == 1.0).all())
    staging.release()
    assert staging.nbytes == 0
