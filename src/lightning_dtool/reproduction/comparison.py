"""Comparison of two checkpoints: their models bit by bit, and the recorded factors that could explain a difference.

Tensors are compared by canonical digests. The checkpoint files themselves differ even for equal models, because a
Lightning checkpoint contains file names and folders. The files are memory-mapped, so that only a piece of one tensor is
in memory at any time.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

from lightning_dtool._public import public
from lightning_dtool.checkpoint import DtoolCheckpoint
from lightning_dtool.errors import NotACheckpointError
from lightning_dtool.reproduction.content import read_content
from lightning_dtool.reproduction.epochs import compare_metrics, compare_order, first_difference
from lightning_dtool.reproduction.weights import compare_weights
from lightning_dtool.results.comparison import Comparison, State
from lightning_dtool.results.differences import Content, Difference, checkpoint_differences
from lightning_dtool.values.digests import state_digest

_NO_FACTOR = re.compile(
    r"metrics\.(?!objects\b).*|checkpoint\..*|data\.order\b.*|gaps\b.*|lineage\.source_datasets\b.*", re.DOTALL
)
"""Paths of differences that are results of a training, or that repeat what `data.stages` says."""


@public
def compare(uri_a: str | os.PathLike[str], uri_b: str | os.PathLike[str], *, weights_only: bool = True) -> Comparison:
    """Compare two checkpoints: the models bit by bit, the histories of training, and the recorded inputs.

    All content that is read is verified against its hashes first.

    Args:
        uri_a: The URI of the first checkpoint, or its folder.
        uri_b: The URI of the second checkpoint, or its folder.
        weights_only: Load the checkpoints safely, without running code (default). `False` unpickles any object: use it
            only for checkpoints whose origin you trust.

    Returns:
        The comparison. Its `identical` is the overall result.

    Raises:
        DatasetNotFoundError: If a dataset does not exist.
        NotACheckpointError: If a dataset is not a checkpoint.
        VerificationError: If content differs from its hashes.
        UnsafeCheckpointError: If a safe load refuses a checkpoint. Weights and optimizer states are in one file, so
            neither can be compared then.

    Example:
        ```python
        outcome = lightning_dtool.compare("s3://lab-models/6a1c…", "s3://lab-models/0b77…")
        outcome.identical                # False
        str(outcome.first_difference)    # "epoch 3: train_loss, val_loss"
        [factor.path for factor in outcome.factors]  # ["environment.packages.torch"]
        ```
    """
    a, b = DtoolCheckpoint.from_uri(uri_a), DtoolCheckpoint.from_uri(uri_b)
    one, two = (checkpoint.load(weights_only=weights_only, mmap=True) for checkpoint in (a, b))
    return Comparison(
        uri_a=a.uri,
        uri_b=b.uri,
        weights=compare_weights(_state_dict(one, a.uri), _state_dict(two, b.uri)),
        optimizers=_compare_states(one.get("optimizer_states"), two.get("optimizer_states")),
        schedulers=_compare_states(one.get("lr_schedulers"), two.get("lr_schedulers")),
        metrics=compare_metrics(a.record, b.record),
        order=compare_order(a.record, b.record),
        first_difference=first_difference(a.record, b.record),
        factors=tuple(factors(read_content(a.dataset), read_content(b.dataset))),
    )


def factors(a: Content, b: Content) -> list[Difference]:
    """Return the differences between the recorded inputs of two trainings, which could explain different results.

    Results, gaps, and differences that any two runs have are left out.

    Args:
        a: The record, code and packages of the first checkpoint.
        b: Those of the second.
    """
    return [
        difference
        for difference in checkpoint_differences(a, b)
        if difference.weight == "matters" and not _NO_FACTOR.fullmatch(difference.path)
    ]


def _state_dict(checkpoint: Mapping[str, Any], uri: str) -> Mapping[str, Any]:
    found = checkpoint.get("state_dict")
    if not isinstance(found, Mapping):
        raise NotACheckpointError(
            f"expected a Lightning checkpoint with a 'state_dict', found "
            f"{', '.join(map(str, checkpoint)) or 'nothing'}. Only checkpoints that a Trainer saved can be compared.",
            uri=uri,
        )
    return found


def _compare_states(a: Any, b: Any) -> State:
    """Compare nested states. An empty list counts as no state."""
    one, two = (state_digest({"state": state}) if state else None for state in (a, b))
    return State("not recorded" if one is two is None else "identical" if one == two else "different", one, two)
