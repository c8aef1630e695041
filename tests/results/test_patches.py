"""Differences between source files, as patches."""

import pytest

from counting import counted
from lightning_dtool.results.differences.patches import source_differences


def test_changed_files_are_patches() -> None:
    one = {"a.py": b"x = 1\n", "gone.py": b"y\n", "same.py": b"z"}
    two = {"a.py": b"x = 20\n", "new.py": b"n\n", "same.py": b"z", "void.py": b""}
    found = source_differences(one, two)
    assert [(difference.path, difference.kind, difference.before, difference.after) for difference in found] == [
        ("code.files[a.py]", "changed", "6 bytes", "7 bytes"),
        ("code.files[gone.py]", "removed", "2 bytes", None),
        ("code.files[new.py]", "added", None, "2 bytes"),
        ("code.files[void.py]", "added", None, "0 bytes"),
    ]
    assert [difference.patch.splitlines() for difference in found] == [
        ["--- a/a.py", "+++ b/a.py", "@@ -1 +1 @@", "-x = 1", "+x = 20"],
        ["--- a/gone.py", "+++ b/gone.py", "@@ -1 +0,0 @@", "-y"],
        ["--- a/new.py", "+++ b/new.py", "@@ -0,0 +1 @@", "+n"],
        [],
    ]


@pytest.mark.parametrize(
    ("before", "after", "kind", "sizes"),
    [
        (b"\0\0", b"\xfe", "changed", ("2 bytes", "1 bytes")),
        (b"text", b"\xfe", "changed", ("4 bytes", "1 bytes")),
        (b"a\0", b"text", "changed", ("2 bytes", "4 bytes")),
        (None, b"\xfe", "added", (None, "1 bytes")),
        (b"\xfe", None, "removed", ("1 bytes", None)),
    ],
)
def test_files_that_are_not_text_have_no_patch(
    before: bytes | None, after: bytes | None, kind: str, sizes: tuple[str | None, str | None]
) -> None:
    one, two = ({} if content is None else {"data.bin": content} for content in (before, after))
    (found,) = source_differences(one, two)
    assert (found.kind, (found.before, found.after), found.note, found.patch) == (kind, sizes, "not text", "")


def test_line_endings_are_a_difference() -> None:
    (found,) = source_differences({"a": b"x\n"}, {"a": b"x\r\n"})
    assert found.patch == "only line endings differ"


def test_a_very_long_file_is_not_compared_line_by_line() -> None:
    one, two = (b"".join(b"%d\n" % (number * step) for number in range(200_000)) for step in (1, 2))
    (found,), calls = counted(source_differences, {"a": one}, {"a": two})
    assert found.patch == "200000 lines -> 200000 lines, too long to compare line by line"
    assert calls < 1000
