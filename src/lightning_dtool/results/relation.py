"""What two checkpoints have to do with each other."""

from lightning_dtool.record import Provenance


def relation(a: Provenance, b: Provenance) -> str | None:
    """Return what two checkpoints of one run are; None for checkpoints of different runs.

    Args:
        a: The first record.
        b: The second record.

    Returns:
        For example `two checkpoints of one run: epochs 3 and 7`.
    """
    if a.run.uuid != b.run.uuid:
        return None
    one, two = a.checkpoint, b.checkpoint
    if one.epoch != two.epoch:
        moments = f"epochs {one.epoch} and {two.epoch}"
    elif one.global_step != two.global_step:
        moments = f"steps {one.global_step} and {two.global_step} of epoch {one.epoch}"
    else:
        moments = f"both of epoch {one.epoch}, step {one.global_step}"
    return f"two checkpoints of one run: {moments}"
