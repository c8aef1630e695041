"""Which environment variables a script reads: seen at run time, or named in its source; and none that it does not."""

import json
import os
import posixpath
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import programs
from lightning_dtool.capture.variables_read import capture_variables_read, named_variables
from lightning_dtool.record import Gaps
from lightning_dtool.watch import variables


def read_by(tmp_path: Path, code: str, **environment: str) -> dict[str, str | None]:
    """Return what is noted while a script runs in a process of its own."""
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os\nfrom lightning_dtool.watch import install\nfrom lightning_dtool.watch.variables import "
        f"read_variables\ninstall()\n{textwrap.dedent(code)}\nprint(json.dumps(read_variables()))\n"
    )
    done = programs.run(script, cwd=tmp_path, env={**os.environ, **environment})
    found: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_what_a_script_reads_is_recorded_with_its_first_value(tmp_path: Path) -> None:
    found = read_by(
        tmp_path,
        """
        os.environ["A"], os.environ.get("B"), os.getenv("C"), "D" in os.environ, os.environ.setdefault("E", "made")
        os.environ["A"] = "later"
        os.environ["A"]
        os.path.expandvars("$F/data")
        import string
        string.Template("$G").safe_substitute(os.environ)
        try:
            os.environ["H"]
        except KeyError as error:
            assert error.args == ("H",)
        [os.environ[f"{prefix}_SIZE"] for prefix in ("I", "J")]
        """,
        A="1", D="", F="/x", G="g", I_SIZE="2", J_SIZE="3",
    )  # fmt: skip
    assert found == {
        "A": "1", "B": None, "C": None, "D": "", "E": None, "F": "/x", "G": "g", "H": None, "I_SIZE": "2",
        "J_SIZE": "3",
    }  # fmt: skip


def test_lists_of_all_variables_and_what_python_and_libraries_read_are_not_noted(tmp_path: Path) -> None:
    found = read_by(
        tmp_path,
        """
        import subprocess, tempfile, torch
        dict(os.environ), {**os.environ}, os.environ.copy(), list(os.environ.items()), repr(os.environ), os.environ | {}
        [value for value in os.environ.values()]
        for name in os.environ:
            os.environ[name]
        os.path.expanduser("~"), tempfile.gettempdir(), subprocess.run(["true"], env={**os.environ})
        torch.ones(2).sum()
        os.environ["ONE"] = "1"
        os.environ["ONE"]
        """,
        **{f"FILLER_{number}": "x" for number in range(40)},
    )  # fmt: skip
    assert found == {"ONE": "1"}


def test_libraries_read_for_the_user(tmp_path: Path) -> None:
    found = read_by(
        tmp_path,
        """
        import click
        from omegaconf import OmegaConf

        @click.command()
        @click.option("--rate", envvar="CLICK_RATE_OF_MINE", default=1.0)
        def main(rate): pass

        @click.command()
        @click.option("--rate", default=1.0)
        def other(rate): pass

        main([], standalone_mode=False)
        other([], standalone_mode=False, auto_envvar_prefix="MINE")
        OmegaConf.create({"lr": "${oc.env:LEARNING_RATE}"}).lr
        """,
        LEARNING_RATE="0.1", MINE_RATE="3",
    )  # fmt: skip
    assert found["LEARNING_RATE"] == "0.1"
    assert found["MINE_RATE"] == "3"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import os\nx = os.environ['A'], os.environ.get('B', 1), os.getenv('C'), 'D' in os.environ", "ABCD"),
        ("from os import environ, getenv\nx = environ['A'], getenv('B'), environ.pop('C')", "ABC"),
        ("import os\nos.environ['A'] = '1'\ndel os.environ['B']\nx = {}.get('C')", ""),
        ("@click.option('--lr', envvar='A')\n@click.option('--n', envvar=['B', 'C'])\ndef f(): pass", "ABC"),
        ("x = OmegaConf.create('lr: ${oc.env:A,0.1}')", "A"),
        ("import os\nx = os.environ[name]", ""),
        ("this is os.environ['A'] and no code", ""),
    ],
)
def test_names_are_found_in_the_source(code: str, expected: str) -> None:
    assert named_variables({"train.py": code.encode()}) == frozenset(expected)


def test_a_script_that_looks_for_a_prefix_reads_the_variables_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE_LR", "0.1")
    monkeypatch.setenv("YOURS_LR", "0.2")
    code = b"import os\nsettings = {k: v for k, v in os.environ.items() if k.startswith('MINE_')}\n"
    names = named_variables({"train.py": code, "conf/a.yaml": b"data: ${oc.env:DATA_ROOT}"})
    assert names == {"MINE_*", "DATA_ROOT"}
    gaps = Gaps()
    found = capture_variables_read(names, gaps)
    assert {name: found.get(name, "absent") for name in ("MINE_LR", "DATA_ROOT", "YOURS_LR")} == {
        "MINE_LR": "0.1", "DATA_ROOT": None, "YOURS_LR": "absent"}  # fmt: skip


def test_no_secret_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"MY_API_KEY": "hunter2", "STORE": "https://me:hunter2@host/x", "PLAIN": "1", "LONG": "x" * 9000}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    gaps = Gaps()
    found = capture_variables_read(frozenset(values), gaps.at("environment.variables_read"))
    assert "hunter2" not in json.dumps(found)
    assert found["PLAIN"] == "1"
    assert {gap.fact for gap in gaps} == {
        f"environment.variables_read.{name}" for name in ("MY_API_KEY", "STORE", "LONG")
    }


def test_fields_of_settings_are_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    class BaseSettings:
        model_config: dict[str, str] = {}
        model_fields: dict[str, object] = {}

    class Mine(BaseSettings):
        model_config = {"env_prefix": "mine_"}
        model_fields = {"rate": None, "size": None}

    package = type(sys)("pydantic_settings")
    package.BaseSettings = BaseSettings  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pydantic_settings", package)
    monkeypatch.setenv("Mine_Rate", "0.1")
    found = capture_variables_read(frozenset(), Gaps())
    assert found["Mine_Rate"] == "0.1"
    assert found["MINE_SIZE"] is None
    assert Mine.__name__ == "Mine"


def test_compiled_code_may_read_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os._Environ, "__getitem__", os._Environ.__getitem__)
    monkeypatch.setattr(os._Environ, "keys", os._Environ.keys, raising=False)
    variables.install()

    def plus(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if os.environ.get("NOT_SET_AT_ALL", "1") == "1" else x

    assert torch.compile(plus, fullgraph=True, backend="eager")(torch.zeros(1)).item() == 1
    assert posixpath.expandvars("$NOT_SET_AT_ALL") == "$NOT_SET_AT_ALL"
