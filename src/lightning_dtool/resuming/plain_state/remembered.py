"""`Remembered`: the plain state of one fit, observed, saved and restored."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.combined_loader import CombinedLoader

from lightning_dtool.record import as_text
from lightning_dtool.resuming.generators import loaders
from lightning_dtool.resuming.plain_state.beginnings import beginning_of
from lightning_dtool.resuming.plain_state.changes import (
    changes,
    is_same,
    may_change_before_a_batch,
    may_decide,
    modes_before_validation,
)
from lightning_dtool.resuming.plain_state.clocks import Clocks
from lightning_dtool.resuming.plain_state.comparison import digest
from lightning_dtool.resuming.plain_state.encoding import MAX_READ, Encoded, Encoder
from lightning_dtool.resuming.plain_state.images import for_image, from_image
from lightning_dtool.resuming.plain_state.kinds import MISSING, NotPlainError
from lightning_dtool.resuming.plain_state.nodes import Node
from lightning_dtool.resuming.plain_state.restoring import Restorer
from lightning_dtool.resuming.plain_state.roots import roots_of
from lightning_dtool.resuming.plain_state.samples import sample_of_tensor
from lightning_dtool.resuming.plain_state.scope import is_made_by_reading, set_by_the_user
from lightning_dtool.resuming.plain_state.walk import MAX_OBJECTS, Reached
from lightning_dtool.values.definitions import class_path

_MAX_SHOWN = 5
"""Maximum number of objects in one reason."""


class Remembered:
    """The plain state of one fit.

    When a fit begins, images of all objects that it can reach are taken. At a save, what differs from them is encoded.
    At a resume, it is put back where the resumed run began like the one that saved.
    """

    def __init__(self) -> None:
        self._reached: Reached | None = None
        self._of_trainer: dict[str, Any] = {}
        self._failure: str | None = None
        self._set_at_start: dict[tuple[str, Any], Any] = {}
        self._clocks = Clocks()
        self._before_validation: str | None = None
        self._of_callbacks_before: dict[str, Any] = {}

    # -- observing the run ----------------------------------------------------------------------

    def begin(self, trainer: Any) -> None:
        """Take the images. The states of module and callbacks have been loaded, and `on_fit_start` has not run.

        Args:
            trainer: The Trainer, in `fit`.
        """
        reached = Reached()
        try:
            schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
            reached.own(trainer.lightning_module, [*trainer.optimizers, *schedulers])
            self._of_trainer = set_by_the_user(trainer)
            reached.walk(roots_of(trainer, loaders(trainer)))
            self._reached = reached
        except Exception as error:  # an object may be made in a way that no walk expects
            self._failed(error)

    def loader_created(self, stage: str, created: Any) -> None:
        """Take images of new loaders, which replace those of their stage.

        Args:
            stage: `train` or `val`.
            created: What the user's hook returned: loaders, in any collection.
        """
        if self._reached is None:
            return
        try:
            combined = created if isinstance(created, CombinedLoader) else CombinedLoader(created, "sequential")
            self._reached.forget(f"{stage}[")
            self._reached.walk([(f"{stage}[{index}]", each) for index, each in enumerate(combined.flattened)])
        except Exception as error:
            self._failed(error)

    def start(self) -> None:
        """Note what hooks and the sanity check have changed, and take images of the objects that they made."""
        if self._reached is None:
            return
        try:
            self._reached.walk_new()
            for node, name, value in list(self._changes({})):
                node.moved.add(name)
                if not node.derived and not _is_made_by_reading(node, name):
                    self._set_at_start[node.path, name] = for_image(value)
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._failure = f"the plain state of the run could not be observed ({type(error).__name__}: {error})"

    # -- saving ---------------------------------------------------------------------------------

    def save(self, trainer: Any) -> tuple[dict[str, Any], list[str]]:
        """Return the plain state that changed since `begin`, and the reasons why some of it cannot be saved.

        Args:
            trainer: The Trainer.
        """
        collected, reasons = self._collected(modes_before_validation(trainer))
        of_trainer = [
            name
            for name, value in set_by_the_user(trainer).items()
            if not is_same(self._of_trainer.get(name, MISSING), value) and may_decide(value)
        ]
        if of_trainer:
            shown = _shown(f"`{name}`" for name in of_trainer)
            reasons.append(f"attributes of the Trainer were set, which no checkpoint holds: {shown}")
        return collected, reasons

    def note_before_validation(self) -> None:
        """Note the state before a validation, in which a checkpoint may be saved."""
        self._before_validation = None
        with contextlib.suppress(Exception):  # without it, `changed_by_validation` gives a reason
            collected, _ = self._collected({})
            self._before_validation = _digest_of(collected)
            self._of_callbacks_before = self._of_callbacks()

    def changed_by_validation(self, saved: Mapping[str, Any]) -> list[str]:
        """Return a reason if a validation that a resumed run repeats or omits has changed the state; else nothing.

        Args:
            saved: What `save` returned.
        """
        before = self._of_callbacks_before
        for place, value in self._of_callbacks().items():
            if not is_same(before.get(place, MISSING), value):
                return [f"a validation that a resumed run repeats or omits has changed `{place}`"]
        if self._before_validation is not None and self._before_validation == _digest_of(saved):
            return []
        return ["a validation that a resumed run repeats or omits has changed state that no state_dict holds"]

    def _of_callbacks(self) -> dict[str, Any]:
        """Return attributes of the user's callbacks that derive from Lightning's, which save these attributes."""
        nodes = self._reached.nodes if self._reached is not None else []
        callbacks = [each for each in nodes if each.managed and isinstance(each.object, pl.Callback)]
        return {
            f"{node.path}.{name}": node.space[name]
            for node in callbacks
            if not isinstance(node.object, pl.callbacks.Checkpoint)  # it notes its own saves
            for name in sorted(node.managed & node.space.keys())
        }

    def changed_by_fetching(self, trainer: Any, saved: Mapping[str, Any]) -> list[str]:
        """Return a reason if a batch that is repeated, since it was not computed, may have changed the state.

        Args:
            trainer: The Trainer.
            saved: What `save` returned.
        """
        for change in saved["changes"]:
            if may_change_before_a_batch(trainer, change["path"]):
                return [
                    "the checkpoint was saved inside a batch, which is repeated, and this batch may have changed "
                    f"`{_place(change['path'], change['name'])}`, which no state_dict holds"
                ]
        return []

    def _collected(self, modes: Mapping[int, bool]) -> tuple[dict[str, Any], list[str]]:
        reasons = [self._failure] if self._failure else []
        reached = self._reached
        if reached is None:
            return {"table": [], "changes": []}, reasons
        encoder = Encoder(reached.path_of)
        found: list[dict[str, Any]] = []
        not_saved: list[str] = []
        for node, name, value in self._changes(modes):
            try:
                encoded = _encoded(encoder, node, name, value)
            except NotPlainError as error:
                key = (node.path, name)
                if _is_made_by_reading(node, name):  # data or a tool, which the resumed run makes again
                    continue
                # An object that was changed when training started may have changed since.
                if name is None or from_image(self._set_at_start.get(key, MISSING)) is not value:
                    not_saved.append(f"`{_place(node.path, name)}` {error}")
                continue
            if node.derived and isinstance(encoded, dict) and encoded.get("kind") == "at":
                continue
            found.append(
                {
                    "path": node.path,
                    "class": class_path(type(node.object)),
                    "name": name,
                    "begin": beginning_of(reached, node, name),
                    "always": node.derived or name in node.moved,
                    "at_start": self._is_from_start(node, name, value),
                    "value": encoded,
                }
            )
        if not_saved:
            reasons.append(f"state that no state_dict holds has changed and cannot be saved: {_shown(not_saved)}")
        if reached.left_out is not None and not reached.left_out.startswith(("train[", "val[", "datamodule")):
            reasons.append(
                f"the run holds more than {MAX_OBJECTS} objects, so changes of `{reached.left_out}` and others are not "
                "known"
            )
        return {"table": encoder.table, "changes": found}, reasons

    def _is_from_start(self, node: Node, name: Any, value: Any) -> bool:
        key = (node.path, name)
        return key in self._set_at_start and is_same(from_image(self._set_at_start[key]), value)

    def _changes(self, modes: Mapping[int, bool]) -> Iterator[tuple[Node, Any, Any]]:
        return changes(self._reached.nodes if self._reached is not None else [], self._clocks, modes)

    # -- resuming -------------------------------------------------------------------------------

    def restore(self, trainer: Any, saved: Mapping[str, Any]) -> list[str]:
        """Put back what `save` returned, and return the reasons why the run may differ.

        Args:
            trainer: The Trainer, just before training continues.
            saved: What was saved.
        """
        reasons = [self._failure] if self._failure else []
        reached = self._reached
        if reached is None:
            return reasons
        restorer = Restorer(reached, saved["table"], trainer.lightning_module.device)
        started = {key: from_image(value) for key, value in self._set_at_start.items()}
        doubts: list[str] = []
        for change in saved["changes"]:
            path, name = str(change["path"]), change["name"]
            started.pop((path, name), None)
            doubt = restorer.put_back(change)
            if doubt is not None:
                doubts.append(f"`{_place(path, name)}` {doubt}")
        doubts += [
            f"`{_place(path, name)}` was set by hooks of this run alone"
            for (path, name), value in started.items()
            if not path.startswith(("optimizers[", "schedulers[")) and may_decide(value)  # those are loaded later
        ]
        if doubts:
            reasons.append(f"state that no state_dict holds could not be put back: {_shown(doubts)}")
        return reasons


def _encoded(encoder: Encoder, node: Node, name: Any, value: Any) -> Encoded:
    if name is not None:
        return encoder.attempt(value, MAX_READ) if _is_made_by_reading(node, name) else encoder.attempt(value)
    if node.kind == "flag":
        return bool(value.requires_grad)
    if node.kind == "iterator":
        raise NotPlainError(f"is a {class_path(type(value))}, whose position cannot be saved")
    return encoder.attempt_filling(value)


def _is_made_by_reading(node: Node, name: Any) -> bool:
    return name is not None and is_made_by_reading(type(node.object), name)


def _digest_of(collected: Mapping[str, Any]) -> str:
    sampled = lambda tensor: repr(sample_of_tensor(tensor)).encode()  # noqa: E731
    return digest({"kind": "list", "value": collected["changes"]}, collected["table"], sampled)


def _place(path: str, name: Any) -> str:
    return path if name is None else f"{path}.{name}"


def _shown(texts: Iterable[str]) -> str:
    every = [as_text(text) for text in dict.fromkeys(texts)]
    more = len(every) - _MAX_SHOWN
    return "; ".join(every[:_MAX_SHOWN]) + (f"; and {more} more" if more > 0 else "")
