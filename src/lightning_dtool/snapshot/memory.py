"""The memory that this process may still take."""

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Return the bytes that can be taken without swapping. None if the system does not report it.

    On Linux this is the kernel's MemAvailable, or less in a container with a limit of its own.
    """
    known = [limit for limit in (_of_the_machine(), _of_the_container()) if limit is not None]
    return min(known) if known else None


def _of_the_machine() -> int | None:
    fields = _numbers(_MEMINFO)
    return fields["MemAvailable:"] * 1024 if "MemAvailable:" in fields else None


def _of_the_container() -> int | None:
    """Return what is left of the control group's limit. Inactive file cache counts as free: it can be dropped."""
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no control group, or one without a limit ("max")
        return None
    return max(0, limit - used + _numbers(_CGROUP / "memory.stat").get("inactive_file", 0))


def _numbers(path: Path) -> dict[str, int]:
    """Read lines of a name and a number."""
    try:
        rows = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
