"""The measurement and judgement of benchmarks. `python -m benchmarks --short` checks that every benchmark runs."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from benchmarks import measuring
from benchmarks.measuring import Bar, Comparison, bytes_below, interleaved
from benchmarks.reporting import show, write
from rich.console import Console

COMPARISON = Comparison(
    "Reading",
    "s",
    {"theirs": [2.0, 4.0, 3.0], "ours": [1.0, 9.0, 1.5]},
    "theirs",
    [Bar("ours", 0.4), Bar("ours", 0.5, statistic="min"), Bar("ours", 1.5, absolute=True)],
    ["in the sun"],
)


def test_cases_alternate_in_changing_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "gc", SimpleNamespace(collect=lambda: None))  # of all tests' objects, it takes long
    calls: list[str] = []

    def case(name: str):
        def run() -> float:
            calls.append(name)
            return float(len(calls))

        return run

    figures = interleaved({name: case(name) for name in "abc"}, rounds=3, warmup=1)
    rounds = ["".join(calls[start : start + 3]) for start in range(0, 12, 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert len(set(rounds)) > 1
    assert list(figures) == ["a", "b", "c"]
    assert sorted(figure for values in figures.values() for figure in values) == [float(n) for n in range(4, 13)]


def test_a_bar_judges_a_ratio_or_a_figure() -> None:
    assert [COMPARISON.reached(bar) for bar in COMPARISON.bars] == [0.5, 0.5, 1.5]
    assert COMPARISON.reached(Bar("theirs", 1.0, against="ours", statistic="first")) == 2.0


def test_tables_show_which_bars_are_met(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    show(Console(width=200), COMPARISON)
    shown = capsys.readouterr().out
    assert "ours against theirs (median): 0.5, at most 0.4: NOT MET" in shown
    assert "ours (median): 1.5, at most 1.5: met" in shown
    assert "in the sun" in shown

    write(tmp_path / "kept", "reading", [COMPARISON])
    kept = json.loads((tmp_path / "kept" / "reading.json").read_text())
    assert kept["comparisons"][0]["series"]["ours"] == [1.0, 9.0, 1.5]
    assert {"lightning", "torch", "lightning-dtool"} <= kept["machine"]["versions"].keys()


def test_a_file_with_two_names_takes_its_space_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"12345")
    (tmp_path / "b").hardlink_to(tmp_path / "in" / "a")
    (tmp_path / "c").write_bytes(b"12345")
    assert bytes_below(tmp_path) == 10
    (tmp_path / "d").symlink_to("c")
    assert bytes_below(tmp_path) == 11
