"""Comparison of two checkpoints: all they deliver bit by bit, and the recorded factors that could explain a difference.

Tensors are compared by canonical digests. The checkpoint files themselves differ even for equal models, because a
Lightning checkpoint contains file names and folders. The files are memory-mapped, so that only a piece of one tensor is
in memory at any time.
"""

import os
import re
from typing import Any

from lightning_dtool._public import public
from lightning_dtool.checkpoint import DtoolCheckpoint
from lightning_dtool.loading.weights import check_objects, load_safely, state_dict_of
from lightning_dtool.reproduction.content import read_content
from lightning_dtool.reproduction.delivered import compare_numbers, delivered
from lightning_dtool.reproduction.epochs import compare_metrics, compare_order, first_difference
from lightning_dtool.reproduction.weights import compare_weights
from lightning_dtool.results.comparison import Comparison, State
from lightning_dtool.results.differences import Content, Difference, checkpoint_differences, record_differences
from lightning_dtool.results.relation import relation
from lightning_dtool.values.digests import state_digest

_NO_FACTOR = re.compile(
    r"metrics\.(?!objects\b).*|checkpoint\..*|data\.order\b.*|gaps\b.*|lineage\.source_datasets\b.*", re.DOTALL
)
"""Paths of differences that are results of a training, or that repeat what `data.stages` says."""


@public
def compare(uri_a: str | os.PathLike[str], uri_b: str | os.PathLike[str]) -> Comparison:
    """Compare two checkpoints: the models bit by bit, the histories of training, and the recorded inputs.

    All content that is read is verified against its hashes first. No code of the checkpoints runs: objects other than
    tensors and plain values are compared by what the files say about them.

    Args:
        uri_a: The URI of the first checkpoint, or its folder.
        uri_b: The URI of the second checkpoint, or its folder.

    Returns:
        The comparison. Its `identical` is the overall result.

    Raises:
        DatasetNotFoundError: If a dataset does not exist.
        NotACheckpointError: If a dataset is not a checkpoint.
        VerificationError: If content differs from its hashes.
        UnsafeCheckpointError: If a checkpoint is not a file as `torch.save` writes it, or stands for much more than it
            can hold.

    Example:
        ```python
        outcome = lightning_dtool.compare("s3://lab-models/6a1c…", "s3://lab-models/0b77…")
        outcome.identical                # False
        str(outcome.first_difference)    # "epoch 3: train_loss, val_loss"
        [factor.path for factor in outcome.factors]  # ["environment.packages.torch"]
        ```
    """
    a, b = DtoolCheckpoint.from_uri(uri_a), DtoolCheckpoint.from_uri(uri_b)
    one, two = (load_safely(checkpoint.path, uri=checkpoint.uri) for checkpoint in (a, b))
    for checkpoint, found in ((a, one), (b, two)):
        state_dict = state_dict_of(found, checkpoint.uri)
        states = (state_dict, found.get("optimizer_states"), found.get("lr_schedulers"))
        check_objects(states, checkpoint.path, checkpoint.uri)
    contents = (read_content(a.dataset), read_content(b.dataset))
    beside_a, beside_b = delivered(one), delivered(two)
    return Comparison(
        uri_a=a.uri,
        uri_b=b.uri,
        weights=compare_weights(state_dict_of(one, a.uri), state_dict_of(two, b.uri)),
        other_tensors=compare_weights(beside_a.tensors, beside_b.tensors),
        numbers=compare_numbers(beside_a.numbers, beside_b.numbers),
        relation=relation(a.record, b.record),
        optimizers=_compare_states(one.get("optimizer_states"), two.get("optimizer_states")),
        schedulers=_compare_states(one.get("lr_schedulers"), two.get("lr_schedulers")),
        metrics=compare_metrics(a.record, b.record),
        order=compare_order(a.record, b.record),
        first_difference=first_difference(a.record, b.record),
        factors=tuple(factors(*contents)),
        unknown=tuple(each for each in record_differences(a.record, b.record) if each.weight == "unknown"),
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


def _compare_states(a: Any, b: Any) -> State:
    """Compare nested states. An empty list counts as no state, and None as a state that was not saved."""
    one, two = (state_digest({"state": state}) if state else None for state in (a, b))
    unknown = a is None or b is None or one is two is None
    return State("not recorded" if unknown else "identical" if one == two else "different", one, two)
