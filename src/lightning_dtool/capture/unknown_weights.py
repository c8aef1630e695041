"""Weights that something has put into a model, and that are found nowhere."""

from collections.abc import Mapping, Sequence

from lightning.pytorch import LightningModule

from lightning_dtool.capture.tensor_match import ModelTensors, named_tensors, sampled_candidate
from lightning_dtool.watch import files


def loaded_and_lost(
    module: LightningModule,
    model: ModelTensors,
    missing: set[str],
    loaded: Sequence[files.LoadedTensor],
) -> set[int]:
    """Return the `id` of each tensor that `torch.load` seems to have returned, though no file holds it now.

    Frozen weights may be equal because the same seed made them twice.

    Args:
        module: The LightningModule.
        model: Its weights.
        missing: The names of those that no source holds.
        loaded: The tensors that `torch.load` has returned.
    """
    tensors = named_tensors(module)
    # Only samples are known, so equal ones are not claimed to be a source.
    candidates = [sampled_candidate("", each.shape, each.sample, lambda _: True) for each in loaded]
    found = model.matches(candidates).names() & missing & tensors.keys()
    return {id(tensors[name]) for name in found} if any(tensors[name].requires_grad for name in found) else set()


def unknown_weights(
    module: LightningModule,
    model: ModelTensors,
    missing: set[str],
    suspects: Mapping[str, set[int]],
    problems: list[str],
) -> tuple[set[str], str, str]:
    """Return the names of the weights that have an unknown origin, the reason, and a remedy.

    Args:
        module: The LightningModule.
        model: Its weights.
        missing: The names of those that no source holds.
        suspects: The `id` of the tensors that the script may not have made, by what is known about them.
        problems: What cannot be read, and why.
    """
    tensors = named_tensors(module)
    found = {
        kind: {name for name in missing if name in tensors and id(tensors[name]) in ids}
        for kind, ids in suspects.items()
    }
    every = set().union(*found.values())
    # Such as a target network, into which the weights of another part of the model were put.
    copied = {name for name in model.significant(found["put_in"]) if model.copies(name) - every}
    found["put_in"] -= copied
    every = set().union(*found.values())
    if found["trained"]:
        reason = "an optimizer changed these weights before this run, in a training that was not recorded"
        return every, reason, "add DtoolProvenanceCallback to the Trainer of that training, too"
    if found["put_in"] or found["loaded"]:
        lost = [f"{file.path} {change}" for file in files.read_files() if (change := change_of(file))]
        way = "load_state_dict or unpickling put in" if found["put_in"] else "torch.load returned"
        reason = f"{way} values that no file that was read holds"
        if lost or problems:
            reason += f" ({'; '.join([*problems, *lost][:3])})"
        return every, reason, "load the weights from a file, and keep it until training has begun"
    reason = "these weights were made before DtoolProvenanceCallback was imported, and may have been loaded"
    return every, reason, "import DtoolProvenanceCallback before you make the model"


def change_of(file: files.ReadFile) -> str | None:
    """Return what has happened to a file since it was read, in words. None if it is as it was.

    Args:
        file: The file.
    """
    now = files.file_state(file.path)
    if now is None:
        return "is gone"
    return "has changed since it was read" if now != file.state else None
