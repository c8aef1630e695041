"""Differences between two lists of packages."""

from lightning_dtool.results.differences.packages import requirement_differences


def test_packages_are_compared() -> None:
    one = "# pinned\nAlpha==1.0\nold_pkg==2\nmine @ git+https://git.example.org/mine@abc\n-e ./here#egg=Here\n\n./odd\n"
    two = "alpha==1.1\nmine @ git+https://git.example.org/mine@def\n-e ./here#egg=here\nnew==1\n./odd\n"
    assert [(found.path, found.kind, found.before, found.after) for found in requirement_differences(one, two)] == [
        ("environment.packages.alpha", "changed", "1.0", "1.1"),
        ("environment.packages[old-pkg]", "removed", "2", None),
        ("environment.packages.mine", "changed", "@ git+https://git.example.org/mine@abc",
         "@ git+https://git.example.org/mine@def"),
        ("environment.packages.here", "changed", "-e ./here#egg=Here", "-e ./here#egg=here"),
        ("environment.packages.new", "added", None, "1"),
    ]  # fmt: skip


def test_lines_that_pin_no_single_version_are_compared_as_a_whole() -> None:
    one = "ranged>=1,<2\nlimited<2\nmarked==1; python_version >= '3.10'\nodd==2024-custom\n"
    two = "ranged>=1,<3\nlimited<3\nmarked==1; python_version >= '3.11'\nodd==2025-custom\n--pre\n"
    assert [(found.path, found.before, found.after) for found in requirement_differences(one, two)] == [
        ("environment.packages.ranged", "ranged>=1,<2", "ranged>=1,<3"),
        ("environment.packages.limited", "limited<2", "limited<3"),
        ("environment.packages.marked", "marked==1; python_version >= '3.10'", "marked==1; python_version >= '3.11'"),
        ("environment.packages.odd", "2024-custom", "2025-custom"),
        ("environment.packages[--pre]", None, "--pre"),
    ]
