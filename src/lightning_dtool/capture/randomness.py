"""What did the random numbers depend on?"""

import os

from lightning_dtool.record import MAX_INTEGER, Gap, Randomness


def capture_randomness(gaps: list[Gap]) -> Randomness:
    """Return the global seed as Lightning's `seed_everything` left it in the environment."""
    seed = _integer(os.environ.get("PL_GLOBAL_SEED", ""))
    if seed is None:
        gaps.append(
            Gap(
                fact="randomness.global_seed",
                reason="seed_everything was not called before fit",
                remedy="call lightning.seed_everything(seed, workers=True) before you build the model",
            )
        )
    workers = _integer(os.environ.get("PL_SEED_WORKERS", ""))
    return Randomness(
        global_seed=seed,
        seed_workers=bool(workers) if workers is not None else None,
    )


def _integer(text: str) -> int | None:
    try:
        number = int(text)
    except ValueError:
        return None
    return number if abs(number) <= MAX_INTEGER else None
