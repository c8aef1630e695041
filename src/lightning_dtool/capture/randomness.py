"""What did the random numbers depend on?"""

import os

from lightning_dtool.record import Gap, Randomness


def capture_randomness(gaps: list[Gap]) -> Randomness:
    """Return the global seed as Lightning's `seed_everything` left it in the environment."""
    seed = os.environ.get("PL_GLOBAL_SEED", "")
    if not seed:
        gaps.append(
            Gap(
                fact="randomness.global_seed",
                reason="seed_everything was not called before fit",
                remedy="call lightning.seed_everything(seed, workers=True) before you build the model",
            )
        )
    workers = os.environ.get("PL_SEED_WORKERS", "")
    return Randomness(
        global_seed=int(seed) if seed.lstrip("-").isdigit() else None,
        seed_workers=bool(int(workers)) if workers.isdigit() else None,
    )
