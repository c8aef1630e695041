"""The weight of a difference: whether it matters, or occurs between any two runs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lightning_dtool.results.differences.difference import Difference

_INCIDENTAL = re.compile(
    r"run\.(uuid|started_at|creator_username|lightning_dtool_version|fit_index)"
    r"|checkpoint\.(filename|saved_at)"
    r"|metrics\.(seconds|steps_per_second|peak_memory_bytes|peak_accelerator_memory_bytes)"
    r"|metrics\.history\[.*\]\.seconds"
    r"|environment\.scheduler\b.*"
    # The folders of a run, and the callback that records it, do not affect its result.
    r"|trainer\.(settings|callbacks|loggers)\b.*\.(default_root_dir|dirpath|save_dir|root_dir|log_dir)"
    r"|trainer\.loggers\[.*\]\.settings\.version"
    r"|trainer\.callbacks\[lightning_dtool[.:].*"
    r"|environment\.variables\W+LIGHTNING_DTOOL_\w+\]?|model\.initial_weights\.stored"
    # The states of PyTorch's schedulers follow from their settings and the number of steps.
    r"|schedulers\[\d+\]\.settings\b.*\.(last_epoch|best|num_bad_epochs|cooldown_counter|T_cur|T_i)"
    # Whether a run is a rerun of another does not affect its result.
    r"|lineage\.(reproduces|replicates)\b.*"
)


def weighed(difference: Difference, moved: set[tuple[str, str]], seeded: bool) -> Difference:
    """Return a difference, with less weight if any two runs have it, or if it is the URI of equal data."""
    # Before the seed is set, every process has its own random numbers.
    before_seeding = seeded and difference.path.startswith("randomness.states.import")
    if before_seeding or _INCIDENTAL.fullmatch(difference.path):
        return replace(difference, weight="incidental")
    if isinstance(difference.before, str) and (difference.before, difference.after) in moved:
        return replace(difference, weight="same content", note="the same data at another URI")
    return difference


def is_redundant(
    difference: Difference, found: Sequence[Difference], a: Mapping[str, Any], b: Mapping[str, Any]
) -> bool:
    """Return whether a difference repeats another: a digest, a constant, an optimizer's default, or a variable."""
    if difference.path == "model.source_sha256":
        return bool(a["model"]["source"] and b["model"]["source"])
    variable = re.fullmatch(r"environment\.variables\b(.*)", difference.path, re.DOTALL)
    if variable is not None:  # what the script reads is listed as such
        return any(other.path == f"environment.variables_read{variable[1]}" for other in found)
    setting = re.fullmatch(r"model\.settings\b(.*)", difference.path, re.DOTALL)
    if setting is not None:  # what training_step reads is listed with the loss
        at_loss = f"loss.constants{setting[1]}"
        return any(
            (other.path, other.before, other.after) == (at_loss, difference.before, difference.after) for other in found
        )
    default = re.fullmatch(r"(optimizers\[\d+\])\.defaults\b(.*)", difference.path, re.DOTALL)
    return default is not None and any(
        other.path.startswith(f"{default[1]}.param_groups[")
        and other.path.endswith(f"].options{default[2]}")
        and (other.before, other.after) == (difference.before, difference.after)
        for other in found
    )
