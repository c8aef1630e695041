"""The origin of the initial weights, in words."""

from lightning_dtool.record import InitialWeights, WeightsSource


def describe_origin(weights: InitialWeights) -> str:
    """Return where initial weights came from.

    Args:
        weights: The section of the record.

    Example:
        >>> describe_origin(InitialWeights(origin="script", seeded=True))
        'made by the script (seeded)'
    """
    if weights.origin == "script":
        if weights.seeded is None:
            return "made by the script"
        return f"made by the script ({'seeded' if weights.seeded else 'not seeded'})"
    parts = [_source(source, weights.keys_total) for source in weights.sources]
    if weights.origin == "unknown":
        parts.append("the others unknown" if parts else "unknown")
    return ", ".join(parts)


def _source(source: WeightsSource, total: int | None) -> str:
    place = f" {source.name or source.path}" if source.name or source.path else ""
    if source.repository is not None:
        place = f" {source.repository}" + (f" at {source.revision[:12]}" if source.revision else "") + place
    what = {"continued": f"continued from run {source.run_uuid}", "file": f"from the file{place}"}.get(source.kind)
    if source.dataset is not None:
        checkpoint = (
            f"{'dataset' if source.kind == 'file' else 'checkpoint'} {source.dataset.name} ({source.dataset.uuid})"
        )
        what = f"from {checkpoint}" if what is None else f"{what}, {checkpoint}"
    part = "" if source.keys_total == total else f" ({source.keys_total} of {total} tensors)"
    return f"{what or source.kind}{part}"
