"""Names, item paths and values, valid and invalid."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lightning_dtool.errors import InvalidNameError, MetadataValueError
from lightning_dtool.store.names import check_name, check_relpath, check_value, fitting_name, relpath_fault


@pytest.mark.parametrize("name", ["a", "epoch-3.step_4", "x" * 80])
def test_names_that_dtool_allows(name: str) -> None:
    assert check_name("dataset", name) == name


@pytest.mark.parametrize("name", ["", "epoch=3", "x\n", ".", "..", "a/b", "ü", "x" * 81, None, 3])
def test_names_that_dtool_does_not_allow(name: object) -> None:
    with pytest.raises(InvalidNameError, match="dataset name"):
        check_name("dataset", name)


@given(st.text(max_size=100), st.from_regex(r"-[0-9a-z]{1,20}", fullmatch=True))
def test_a_fitting_name_is_one_that_dtool_allows(stem: str, tail: str) -> None:
    name = fitting_name(stem, tail)
    assert check_name("dataset", name).endswith(tail)
    assert fitting_name(name) == name
    assert len(fitting_name(stem, tail, longest=30)) <= 30


def test_a_fitting_name_keeps_what_it_can() -> None:
    assert fitting_name("Leaf Net", "-epoch3") == "Leaf_Net-epoch3"
    assert fitting_name("x" * 100, "-v1") == "x" * 77 + "-v1"


def test_a_dot_is_no_part_of_an_annotations_name() -> None:
    with pytest.raises(InvalidNameError, match="no dots"):
        check_name("annotation", "a.b", dots=False)


@pytest.mark.parametrize("relpath", ["a", "a/b.txt", "ü/ö", "a b/c", "...", ".hidden", "a\nb", "-"])
def test_safe_item_paths(relpath: str) -> None:
    assert check_relpath(relpath) == relpath


HOSTILE = [
    "/etc/passwd",
    "../../x",
    "a/../b",
    "a//b",
    "a/",
    "./a",
    ".",
    "..",
    "",
    "a\\b",
    "..\\x",
    "a\0b",
    "\ud800",
    None,
]


@pytest.mark.parametrize("relpath", HOSTILE)
def test_hostile_item_paths(relpath: object) -> None:
    with pytest.raises(InvalidNameError, match="invalid item path"):
        check_relpath(relpath)


@given(
    st.lists(st.sampled_from(["a", "b.txt", "..", ".", "", "/", "\\", "\0", "~", "C:"]) | st.text(max_size=4)).map(
        "/".join
    )
)
@example("/etc/passwd")
def test_a_path_without_fault_stays_below_its_directory(relpath: str) -> None:
    import posixpath

    if relpath_fault(relpath) is None:
        joined = posixpath.join("/data", relpath)
        assert posixpath.normpath(joined) == joined
        assert joined.startswith("/data/")
        relpath.encode()


@pytest.mark.parametrize("value", [None, True, 1, 2**63 - 1, -(2**63), 0.5, "ü", [1, [2]], {"a": {"b": ()}}, {}])
def test_strict_json(value: object) -> None:
    assert check_value("annotation", "x", value) is value


LOOP: list[object] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        {"a": [float("inf")]},
        2**63,
        {"a": -(2**63) - 1},
        {1: 2},
        {None: 1},
        b"x",
        {1, 2},
        object(),
        LOOP,
        "\ud800",
    ],
)
def test_what_is_not_strict_json(value: object) -> None:
    with pytest.raises(MetadataValueError, match="annotation 'x'"):
        check_value("annotation", "x", value)
