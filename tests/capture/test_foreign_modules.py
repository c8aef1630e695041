"""Which modules outside the project are stored, which are gaps, and what their gaps say."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lightning_dtool.capture.foreign_modules import foreign_modules
from lightning_dtool.record import Gaps


def gaps_of(*modules: tuple[str, Path]) -> list[tuple[str, str]]:
    gaps = Gaps()
    assert foreign_modules(modules, gaps) == []
    assert {gap.fact for gap in gaps} <= {"code.modules"}
    return [(gap.reason, gap.remedy) for gap in gaps]


def stored(*modules: tuple[str, Path]) -> dict[str, str]:
    for _, path in modules:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    gaps = Gaps()
    found = {name: relpath for name, relpath, _ in foreign_modules(modules, gaps)}
    assert not list(gaps)
    return found


def test_a_module_of_another_folder_is_stored(tmp_path: Path) -> None:
    assert stored(
        ("helpers", tmp_path / "helpers.py"),
        ("more", tmp_path / "more/__init__.py"),
        ("more.x", tmp_path / "more/x.py"),
    ) == {"helpers": "outside/helpers.py", "more": "outside/more/__init__.py", "more.x": "outside/more/x.py"}


def test_what_is_no_source_or_too_large_is_a_gap(tmp_path: Path) -> None:
    large = tmp_path / "large.py"
    large.write_text("#" * (2**21 + 1))
    (found,) = gaps_of(("compiled", tmp_path / "compiled.so"), ("large", large))
    assert found[0].startswith("2 imported modules (compiled, large) are neither installed")


def test_a_library_in_editable_mode_is_stored_up_to_a_limit(tmp_path: Path) -> None:
    modules = [(f"big.m{number:03}", tmp_path / f"big/m{number:03}.py") for number in range(201)]
    (tmp_path / "big").mkdir()
    for _, path in modules:
        path.touch()
    gaps = Gaps()
    assert len(foreign_modules(modules, gaps)) == 200
    assert [gap.reason.partition(" are ")[0] for gap in gaps] == ["1 imported modules (big.m200)"]


def test_what_libraries_and_debuggers_generate_is_none(tmp_path: Path) -> None:
    assert torch.__name__ in sys.modules
    assert not gaps_of(
        ("torch._inductor.runtime.compile_tasks.cabc", tmp_path / "torchinductor_me/ab/cabc.py"),
        ("__triton_launcher", tmp_path / ".triton/cache/x/__triton_launcher.so"),
        ("pydevd_plugins.extensions", tmp_path / "pydevd_plugins/extensions/__init__.py"),
        ("debugpy", tmp_path / "extensions/debugpy/__init__.py"),
        ("_pydevd_bundle.pydevd_comm", tmp_path / "_pydevd_bundle/pydevd_comm.py"),
    )


def test_a_submodule_of_a_package_that_is_not_installed_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = ModuleType("mine")
    package.__file__ = str(tmp_path / "mine/__init__.py")
    monkeypatch.setitem(sys.modules, "mine", package)
    assert stored(("mine.part", tmp_path / "cache/part.py")) == {"mine.part": "outside/mine/part.py"}


def test_a_package_installed_into_another_folder_is_none(tmp_path: Path) -> None:
    metadata = tmp_path / "tool-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Name: tool\nVersion: 1.0\n")
    (metadata / "RECORD").write_text("tool/__init__.py,,\ntool/part.py,,\nsingle.py,,\n")
    installed = [
        ("tool", tmp_path / "tool/__init__.py"),
        ("tool.part", tmp_path / "tool/part.py"),
        ("single", tmp_path / "single.py"),
    ]
    assert not gaps_of(*installed)
    assert stored(*installed, ("other", tmp_path / "other.py")) == {"other": "outside/other.py"}


def test_the_metadata_beside_a_source_folder_installs_nothing(tmp_path: Path) -> None:
    metadata = tmp_path / "mine.egg-info"
    metadata.mkdir()
    (metadata / "PKG-INFO").write_text("Name: mine\nVersion: 1.0\n")
    (metadata / "SOURCES.txt").write_text("mine/__init__.py\n")
    assert stored(("mine", tmp_path / "mine/__init__.py")) == {"mine": "outside/mine/__init__.py"}


def test_code_that_was_downloaded_is_a_gap_with_its_own_remedy(tmp_path: Path) -> None:
    (found,) = gaps_of(
        (
            "transformers_modules.org.net.abc.modeling",
            tmp_path / "modules/transformers_modules/org/net/abc/modeling.py",
        ),
        ("hubconf", tmp_path / ".cache/torch/hub/org_net_main/hubconf.py"),
    )
    assert "2 imported modules" in found[0]
    assert "downloaded" in found[0]
    assert "revision" in found[1]
