"""Recorded packages: parsing of untrusted lists, differences, and environments built with pip and uv."""

import os
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

import lightning_dtool
from lightning_dtool import _version
from lightning_dtool.capture.environment import capture_environment
from lightning_dtool.capture.environment import requirements as present_requirements
from lightning_dtool.errors import ConfigurationError, EnvironmentCreationError
from lightning_dtool.record import Environment, Gaps
from lightning_dtool.reproduction import environment, installers
from lightning_dtool.reproduction.environment import (
    create_environment,
    environment_differences,
    own_requirement,
)
from lightning_dtool.reproduction.packages import installable_packages, local_packages

COMMIT = "0123456789abcdef0123456789abcdef01234567"

# -- reading --------------------------------------------------------------------------------------


def test_pins_and_commits_are_parsed() -> None:
    text = f"""
        # a comment
        torch==2.13.0+cpu
        Leaf_Net.core==0.1
        six == 1.16.0
        pytz==2024.1.post1
        tools @ git+https://git.example.org:8443/lab/tools.git@{COMMIT}
    """
    assert installable_packages(text) == (
        {
            "torch": "2.13.0+cpu",
            "leaf-net-core": "0.1",
            "six": "1.16.0",
            "pytz": "2024.1.post1",
            "tools": f"git+https://git.example.org:8443/lab/tools.git@{COMMIT}",
        },
        [],
    )


@pytest.mark.parametrize(
    "line",
    [
        "-r /etc/passwd",
        "-e .",
        "--index-url https://evil.example.org/simple",
        "--extra-index-url=https://evil.example.org/simple",
        "--find-links /tmp",
        "--pre",
        "-c constraints.txt",
        "six",
        "six>=1.0",
        "six===1.0",
        "six==1.*",
        "six==1.0,!=2",
        "six==1.0; python_version > '3'",
        "six==1.0 --hash=sha256:00",
        "six==1.0 --config-settings=x=y",
        "six==1.0 \\",
        "six==1.0 # six",
        "six[extra]==1.0",
        "six==not-a-version",
        "six==1.0-",
        "-six==1.0",
        "six @ https://evil.example.org/six.whl",
        "six @ file:///tmp/six.whl",
        f"six @ git+file:///tmp/six@{COMMIT}",
        f"six @ git+ssh://git@example.org/six@{COMMIT}",
        f"six @ git+http://example.org/six@{COMMIT}",
        f"six @ hg+https://example.org/six@{COMMIT}",
        f"six @ git+https://user:word@example.org/six@{COMMIT}",
        f"six @ git+https://-oProxyCommand=x/six@{COMMIT}",
        f"six @ git+https://example.org/a/../six@{COMMIT}",
        f"six @ git+https://example.org/six@{COMMIT}#subdirectory=x",
        f"six @ git+https://example.org/$(x)@{COMMIT}",
        "six @ git+https://example.org/six@main",
        "six @ git+https://example.org/six@--upload-pack=x",
        "./six",
        "six.whl",
        "https://evil.example.org/six.whl",
        "${HOME}",
        "six==1.0\N{FULLWIDTH DIGIT ONE}",
        "ѕix==1.0",  # noqa: RUF001 - a Cyrillic letter is the point
        "six==1.0\0",
    ],
)
def test_other_requirements_are_refused_and_reported(line: str) -> None:
    assert installable_packages(f"click==8.1.7\n{line}\n") == ({"click": "8.1.7"}, [line])


def test_the_first_of_two_versions_is_used() -> None:
    assert installable_packages("six==1.0\nSix==2.0\nsix==1.0\n") == ({"six": "1.0"}, ["Six==2.0"])


@given(st.text())
def test_any_text_gives_only_plain_pins(text: str) -> None:
    check(text)


@given(
    st.lists(
        st.sampled_from(
            [
                "six",
                "==",
                "1.0",
                " ",
                "\n",
                "\r",
                "\x0b",
                "\u2028",
                "-r",
                "--pre",
                "@",
                ";",
                "#",
                "git+https://",
                "x.org/a",
                COMMIT,
                "file:///",
                "\\",
                "+cpu",
                "[x]",
                "*",
                "'",
                "$",
            ]
        )
    )
)
def test_any_combination_of_fragments_gives_only_plain_pins(pieces: list[str]) -> None:
    check("".join(pieces))


def check(text: str) -> None:
    pins, refused = installable_packages(text)
    for name, version in pins.items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
        assert re.fullmatch(r"git\+https://[A-Za-z0-9][A-Za-z0-9./_~:+-]*@[0-9a-f]{40,64}", version) or Version(version)
        assert not re.search(r"\s", version)
        assert not version.startswith("-")
    assert all(line.strip() == line and line for line in refused)


def test_the_record_of_this_environment_can_be_parsed() -> None:
    pins, refused = installable_packages(present_requirements())
    assert pins["torch"] == metadata.version("torch")
    assert not [line for line in refused if "==" in line and "git+" not in line]


def test_packages_from_a_folder_are_reported() -> None:
    text = (
        "leaf_net==0.1\n# leaf_net is installed editable from file:///home/ada/leaf\n"
        "tool==1\n# tool is installed from file:///tmp/tool-1.whl\n"
        "numpy==2.0\n# numpy is installed from file:///croot/numpy_1/work/dist/numpy.whl\n# and more\n"
    )
    assert local_packages(text) == {"leaf-net": "file:///home/ada/leaf", "tool": "file:///tmp/tool-1.whl"}


# -- differences ----------------------------------------------------------------------------------


def test_an_environment_does_not_differ_from_itself() -> None:
    here, packages = capture_environment(Gaps()), present_requirements()
    assert environment_differences(packages, here) == []
    assert environment_differences(None, here) == []


def test_differences_to_another_environment_are_found() -> None:
    recorded = Environment(python="3.10.2", platform="Linux", versions={"torch": "2.6"}, cpu="A", cpu_count=4)
    present = Environment(python="3.11.7", platform="Linux", versions={"torch": "2.7"}, cpu="B", cpu_count=4)
    found = environment_differences(
        "torch==2.6\nsix==1.0\n",
        recorded,
        "torch==2.7\n",
        present,
        recorded_flags={"num_threads": 1, "x": 1},
        present_flags={"num_threads": 2, "x": 1},
    )
    assert [(difference.path, difference.before, difference.after) for difference in found] == [
        ("randomness.flags.num_threads", 1, 2),
        ("environment.python", "3.10.2", "3.11.7"),
        ("environment.cpu", "A", "B"),
        ("environment.packages.torch", "2.6", "2.7"),
        ("environment.packages.six", "1.0", None),
    ]
    versions = environment_differences(None, recorded, None, present)
    assert "environment.versions.torch" in [difference.path for difference in versions]


def test_flags_missing_in_the_record_are_added() -> None:
    found = environment_differences(None, capture_environment(Gaps()), recorded_flags={})
    assert found
    assert {difference.kind for difference in found} == {"added"}


# -- building -------------------------------------------------------------------------------------


def wheel(folder: Path, name: str, version: str, requires: str | None = None) -> None:
    """Write a wheel of one module that holds its version."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    files = {
        f"{module}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only folder in which pip and uv look for packages."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    settings = {"NO_INDEX": "1", "FIND_LINKS": str(folder)}
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name}", value)
        monkeypatch.setenv(f"UV_{name}", value)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.setenv("PYTHONPATH", "/nonexistent/of-the-parent")
    wheel(folder, "lightning-dtool", lightning_dtool.__version__)
    # Building the work tree would need a build system from an index.
    monkeypatch.setattr(environment, "own_requirement", lambda: [f"lightning-dtool=={lightning_dtool.__version__}"])
    wheel(folder, "six", "1.16.0")
    wheel(folder, "leaf-tools", "2.0")
    return folder


PIP_TAKES_LONG = pytest.mark.parametrize("tool", [pytest.param("pip", marks=pytest.mark.slow), "uv"], indirect=True)
"""For what other tests show with pip, too: it takes seconds for each environment."""


@pytest.fixture(params=["pip", "uv"])
def tool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Return the name of the only available installer."""
    if request.param == "pip":
        monkeypatch.setattr(installers, "_find_uv", lambda: None)
    return request.param


def version_in(built: environment.BuiltEnvironment, module: str) -> str:
    command = [os.fspath(built), "-I", "-c", f"import {module}; print({module}.version)"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@PIP_TAKES_LONG
def test_an_environment_is_built(tool: str, index: Path, tmp_path: Path) -> None:
    messages: list[str] = []
    built = create_environment("six==1.16.0\nleaf_tools==2.0\n", tmp_path / "env", report=messages.append)
    assert built.tool == tool
    assert built.python.is_relative_to(tmp_path / "env")
    assert version_in(built, "six") == "1.16.0"
    assert version_in(built, "leaf_tools") == "2.0"
    assert version_in(built, "lightning_dtool") == lightning_dtool.__version__
    assert (built.skipped, built.replaced, built.conflicts) == ({}, {}, ())
    assert messages[0] == f"building an environment with {tool} in {tmp_path / 'env'}"
    assert "installing 2 packages" in messages


@PIP_TAKES_LONG
def test_packages_that_no_index_provides_are_skipped_and_reported(tool: str, index: Path, tmp_path: Path) -> None:
    """Even if an index has a package of that name, it is not the recorded one."""
    wheel(index, "leaf-net", "0.1")
    messages: list[str] = []
    text = (
        "six==1.16.0\nleaf_net==0.1\n# leaf_net is installed editable from file:///home/ada/leaf\n"
        "--index-url https://evil.example.org\nlightning-dtool==0.0.1\n"
    )
    built = create_environment(text, tmp_path / "env", report=messages.append)
    assert set(built.skipped) == {"--index-url https://evil.example.org", "leaf-net", "lightning-dtool"}
    assert "source.zip" in built.skipped["leaf-net"]
    assert sum(line.startswith("left out: ") for line in messages) == 3
    with pytest.raises(subprocess.CalledProcessError):
        version_in(built, "leaf_net")


def test_missing_local_versions_are_replaced_by_public_ones(tool: str, index: Path, tmp_path: Path) -> None:
    wheel(index, "fast", "3.0+cpu")
    messages: list[str] = []
    text = "fast==3.0+cpu\nsix==1.16.0+cu121\nleaf-tools==2.0+rocm6.1\n"
    built = create_environment(text, tmp_path / "env", report=messages.append)
    assert built.replaced == {"six": "1.16.0+cu121 -> 1.16.0", "leaf-tools": "2.0+rocm6.1 -> 2.0"}
    assert version_in(built, "fast") == "3.0+cpu"
    assert version_in(built, "six") == "1.16.0"
    assert any("six==1.16.0+cu121: trying its public version 1.16.0" in line for line in messages)


def test_conflicting_packages_are_reported_and_not_changed(tool: str, index: Path, tmp_path: Path) -> None:
    wheel(index, "needy", "1.0", requires="six>=2")
    wheel(index, "six", "2.0")
    messages: list[str] = []
    built = create_environment("needy==1.0\nsix==1.16.0\n", tmp_path / "env", report=messages.append)
    assert version_in(built, "six") == "1.16.0"
    (conflict,) = built.conflicts
    assert "needy" in conflict
    assert "six" in conflict
    assert any(conflict in line for line in messages)


@PIP_TAKES_LONG
def test_a_pin_that_no_index_has_is_an_error(tool: str, index: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentCreationError, match="The last lines of the output") as caught:
        create_environment("six==9.9.9\n", tmp_path / "env")
    assert "six==9.9.9" in str(caught.value)
    assert (caught.value.kind, caught.value.path) == ("packages", str(tmp_path / "env"))
    assert not (tmp_path / "env").exists()
    with pytest.raises(EnvironmentCreationError, match="nothing-like-it"):
        create_environment("nothing-like-it==1.0\nsix==1.16.0+cpu\n", tmp_path / "env")


def test_a_folder_that_is_not_empty_is_refused(index: Path, tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    (tmp_path / "env/thesis.tex").touch()
    for folder in (tmp_path / "env", tmp_path / "env/thesis.tex"):
        with pytest.raises(ConfigurationError, match="expected an empty folder"):
            create_environment("", folder)
    assert (tmp_path / "env/thesis.tex").exists()


@PIP_TAKES_LONG
def test_an_environment_without_packages_is_built(tool: str, index: Path, tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    built = create_environment("", tmp_path / "env", python=sys.version.split()[0])
    assert version_in(built, "lightning_dtool") == lightning_dtool.__version__


def test_a_missing_python_is_an_error(tool: str, index: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentCreationError, match=r"Python 3\.99") as caught:
        create_environment("six==1.16.0\n", tmp_path / "env", python="3.99.1")
    assert caught.value.kind == "python"
    assert not (tmp_path / "env").exists()


def test_without_uv_python_is_searched_on_the_path(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the right name that does not run is an error."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(installers, "_find_uv", lambda: None)
    (tmp_path / "bin").mkdir()
    with pytest.raises(EnvironmentCreationError, match=r"there is no python3\.99 on the PATH.*uv, which fetches it"):
        create_environment("", tmp_path / "env", python="3.99")
    shim = tmp_path / "bin/python3.99"
    shim.write_text("#!/bin/sh\necho no such version; exit 127\n")
    shim.chmod(0o755)
    with pytest.raises(EnvironmentCreationError, match=r"python3\.99 exists but does not run: no such version"):
        create_environment("", tmp_path / "env", python="3.99")
    shim.unlink()
    shim.symlink_to(sys.executable)
    with pytest.raises(EnvironmentCreationError, match=r"does not run"):
        create_environment("", tmp_path / "env", python="3.99")


@pytest.mark.parametrize("python", ["", "three", "--help", "3", "3.11;x", "3.11\n", "../3.11", "3.x"])
def test_an_invalid_python_version_is_refused(python: str, index: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="expected a version"):
        create_environment("", tmp_path / "env", python=python)


def test_the_error_holds_no_credentials(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = installers.Done(1, "Looking in indexes: https://ada:hunter2@pypi.example.org/simple\nERROR: no\n")
    with pytest.raises(EnvironmentCreationError) as caught:
        installers.check(done, "x", "packages", tmp_path)
    assert "hunter2" not in str(caught.value)
    assert "ERROR: no" in str(caught.value)


def test_an_installer_that_cannot_be_started_is_an_error(tmp_path: Path) -> None:
    done = installers.run([str(tmp_path / "nothing")])
    assert done.code
    assert "nothing" in done.output


# -- this package ---------------------------------------------------------------------------------


def test_this_package_is_installed_from_its_work_tree() -> None:
    option, tree = own_requirement()
    assert option == "--editable"
    assert (Path(tree) / "src/lightning_dtool/__init__.py").samefile(lightning_dtool.__file__)


@pytest.mark.parametrize(
    ("noted", "expected"),
    [
        (None, None),
        ("{", None),
        ("[]", None),
        ("{}", None),
        ('{"url": "https://x.example.org/a.whl", "archive_info": {}}', "lightning-dtool @ https://x.example.org/a.whl"),
        (
            f'{{"url": "https://x.example.org/a", "vcs_info": {{"vcs": "git", "commit_id": "{COMMIT}"}}}}',
            f"lightning-dtool @ git+https://x.example.org/a@{COMMIT}",
        ),
        ('{"url": "https://x.example.org/a", "vcs_info": {"vcs": "git"}}', None),
        ('{"url": "file:///nonexistent/a.whl"}', None),
    ],
)
def test_the_origin_that_pip_recorded_is_read(noted: str | None, expected: str | None) -> None:
    assert environment._origin(noted) == expected


def test_a_folder_that_pip_recorded_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    assert environment._origin(f'{{"url": "{folder.as_uri()}", "dir_info": {{}}}}') == str(folder)


def test_without_a_work_tree_this_package_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_version, "__file__", str(tmp_path / "lib/site-packages/lightning_dtool/_version.py"))
    monkeypatch.setattr(
        metadata, "distribution", lambda name: (_ for _ in ()).throw(metadata.PackageNotFoundError(name))
    )
    assert own_requirement() == [f"lightning-dtool=={lightning_dtool.__version__}"]


@pytest.mark.slow
def test_this_package_and_packages_of_an_index_are_installed(tmp_path: Path) -> None:
    """Needs an index: builds the work tree and installs it with two packages from the index."""
    built = create_environment("six==1.16.0\nclick==8.1.7\n", tmp_path / "env")
    command = [os.fspath(built), "-I", "-c", "import click, six, lightning_dtool; print(lightning_dtool.__file__)"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert Path(done.stdout.strip()).samefile(lightning_dtool.__file__)
    assert any("torch" in line for line in built.conflicts)
