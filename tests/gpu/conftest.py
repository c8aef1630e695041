"""The devices on which the tests of this folder run: always the CPU, and a CUDA device where there is one."""

from collections.abc import Iterator

import pytest
import torch

from gpu.devices import ON_GPU


@pytest.fixture(params=[pytest.param("cpu"), pytest.param("cuda", marks=ON_GPU)])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(
    params=[
        "cpu 32-true",
        "cpu bf16-mixed",
        *(pytest.param(f"cuda {precision}", marks=ON_GPU) for precision in ("32-true", "bf16-mixed", "16-mixed")),
    ]
)
def settings(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Return a device and a precision."""
    found, precision = request.param.split()
    return found, precision


@pytest.fixture(autouse=True)
def _deterministic_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let kernels of CUDA be deterministic, as a user who compares bits does."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    yield
    torch.use_deterministic_algorithms(False)
