"""Seeds, random states and other settings that determine random numbers and the bits of results."""

from pydantic import Field

from lightning_dtool.record.section import Integer, Json, Section


class Randomness(Section):
    """Seeds, random states and other settings that determine random numbers and the bits of results."""

    global_seed: Integer | None = Field(
        default=None, description="Seed of the last `seed_everything`, if it was called in this process."
    )
    seeds: dict[str, Json] = Field(
        default={},
        description=(
            "Last seed of each global generator (`torch`, `numpy`, `python`), whether `seed_everything` or other code "
            "has set it. Without an entry, no seed was seen."
        ),
    )
    seeded_before_model: bool | None = Field(
        default=None,
        description=(
            "Whether torch was seeded before the LightningModule was made, so that the seed determines its initial "
            "weights. null if this is not known, or if torch was not seeded."
        ),
    )
    seed_workers: bool | None = Field(
        default=None,
        description=(
            "Whether Lightning seeds the workers of the data loaders (`seed_everything(seed, workers=True)`). It does "
            "so only for loaders that are set up after the call. null if `seed_everything` was not called."
        ),
    )
    states: dict[str, dict[str, str]] = Field(
        default={},
        description=(
            "SHA-256 of each state, by moment (`import`, `fit_start`) and generator; random_states.json has the states."
        ),
    )
    flags: dict[str, Json] = Field(
        default={},
        description="Other settings that affect bits: deterministic algorithms, matmul precision, threads and so on.",
    )
    repeatable_by: str | None = Field(
        default=None,
        description=(
            "What makes a rerun repeatable: `seed` (all generators were seeded), `states` (of a generator that was not "
            "seeded, no random number was drawn before DtoolProvenanceCallback was imported) or `initial_weights` "
            "(they are stored). null if nothing does, or if samples or their order are not known to follow from it "
            "(see `gaps`)."
        ),
    )
