"""Plain state that no state_dict holds: attributes, containers, generators, modes, found, saved and restored."""

import collections
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.combined_loader import CombinedLoader

from lightning_dtool.record import as_text
from lightning_dtool.resuming.generators import loaders
from lightning_dtool.resuming.remembered_scope import is_left_out, is_made_by_reading, set_by_the_user
from lightning_dtool.resuming.remembered_values import (
    MISSING,
    Decoder,
    Encoded,
    Encoder,
    NotPlainError,
    digest,
    equal,
    fill,
    kind_of,
)
from lightning_dtool.resuming.remembered_walk import (
    MAX_OBJECTS,
    Node,
    Reached,
    attributes,
    for_image,
    from_image,
    image_entries,
    is_unchanged,
    roots_of,
    sample_of_tensor,
    set_attribute,
)
from lightning_dtool.values.definitions import class_path

_MAX_SHOWN = 5
"""Maximum number of objects in one reason."""

_PLAIN = frozenset({type(None), bool, int, float, str, bytes})

_NAME_OF_A_CLOCK = re.compile(r"time|clock|start|begin|tic\b|t0|since|elapsed|last|now|stamp")


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
        self._began = (time.time(), time.perf_counter(), time.monotonic())
        self._before_validation: str | None = None

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
                if not node.derived:
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
        collected, reasons = self._collected(_modes(trainer))
        of_trainer = [
            name
            for name, value in set_by_the_user(trainer).items()
            if not _same(self._of_trainer.get(name, MISSING), value) and _decides(value)
        ]
        if of_trainer:
            shown = _shown(f"`{name}`" for name in of_trainer)
            reasons.append(f"attributes of the Trainer were set, which no checkpoint holds: {shown}")
        return collected, reasons

    def note_before_validation(self) -> None:
        """Note the state before a validation, in which a checkpoint may be saved."""
        collected, _ = self._collected({})
        self._before_validation = _digest_of(collected)

    def changed_by_validation(self, saved: Mapping[str, Any]) -> list[str]:
        """Return a reason if a validation that a resumed run repeats or omits has changed the state; else nothing.

        Args:
            saved: What `save` returned.
        """
        if self._before_validation is not None and self._before_validation == _digest_of(saved):
            return []
        return ["a validation that a resumed run repeats or omits has changed state that no state_dict holds"]

    def changed_by_fetching(self, trainer: Any, saved: Mapping[str, Any]) -> str | None:
        """Return what a batch may have changed that was fetched and not computed; None if nothing is known.

        Args:
            trainer: The Trainer.
            saved: What `save` returned.
        """
        for change in saved["changes"]:
            if _changes_by_fetching(trainer, change["path"]):
                return str(change["path"] if change["name"] is None else f"{change['path']}.{change['name']}")
        return None

    def _collected(self, modes: Mapping[int, bool]) -> tuple[dict[str, Any], list[str]]:
        reasons = [self._failure] if self._failure else []
        reached = self._reached
        if reached is None:
            return {"table": [], "changes": []}, reasons
        encoder = Encoder(reached.path_of)
        changes: list[dict[str, Any]] = []
        not_saved: list[str] = []
        for node, name, value in self._changes(modes):
            shown = node.path if name is None else f"{node.path}.{name}"
            try:
                encoded = _encoded(encoder, node, name, value)
            except NotPlainError as error:
                key = (node.path, name)
                # An object that was changed when training started may have changed since.
                if name is None or from_image(self._set_at_start.get(key, MISSING)) is not value:
                    not_saved.append(f"`{shown}` {error}")
                continue
            if node.derived and isinstance(encoded, dict) and encoded.get("kind") == "at":
                continue
            changes.append(
                {
                    "path": node.path,
                    "class": class_path(type(node.object)),
                    "name": name,
                    "begin": _begin(reached, node, name),
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
        return {"table": encoder.table, "changes": changes}, reasons

    def _is_from_start(self, node: Node, name: Any, value: Any) -> bool:
        key = (node.path, name)
        return key in self._set_at_start and _same(from_image(self._set_at_start[key]), value)

    def _changes(self, modes: Mapping[int, bool]) -> Iterator[tuple[Node, Any, Any]]:
        """Yield each object that changed, the name of the attribute or None, and the attribute's value."""
        for node in self._reached.nodes if self._reached is not None else ():
            as_before = not node.derived and not node.moved and is_unchanged(node)
            if as_before and not (modes and id(node.object) in modes):
                continue
            held = node.object
            if node.kind == "attributes":
                yield from self._changed_attributes(node, held, modes)
            elif node.kind == "opaque" or held is None or (node.kind == "iterator" and is_unchanged(node)):
                continue
            elif not _holds_only_what_is_left_out(held):
                yield node, None, held

    def _changed_attributes(self, node: Node, held: Any, modes: Mapping[int, bool]) -> Iterator[tuple[Node, Any, Any]]:
        now = attributes(node)
        if id(held) in modes:
            now["training"] = modes[id(held)]
        image = node.image
        for name in {**now, **image}:
            if type(name) is not str:  # no attribute
                continue
            then, value = from_image(image.get(name, MISSING)), now.get(name, MISSING)
            always = node.derived or name in node.moved
            if then is value and not always:
                continue
            if is_left_out(kind_of(value)) or is_left_out(kind_of(then)) or is_made_by_reading(type(held), name):
                continue
            if not always and _same(then, value):
                continue
            if type(value) is float and self._is_clock(value, str(name)):
                continue
            yield node, name, value

    def _is_clock(self, value: float, name: str) -> bool:
        """Return whether a number was read from a clock during this fit."""
        began, counted, passed = self._began
        if began - 1 <= value <= time.time() + 1:
            return True
        if not _NAME_OF_A_CLOCK.search(name.lower()):
            return False
        return counted - 1 <= value <= time.perf_counter() + 1 or passed - 1 <= value <= time.monotonic() + 1

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
        decoder = Decoder(saved["table"], _object_at(reached), reached.classes.get, trainer.lightning_module.device)
        started = {key: from_image(value) for key, value in self._set_at_start.items()}
        doubts: list[str] = []
        for change in saved["changes"]:
            path, name = str(change["path"]), change["name"]
            started.pop((path, name), None)
            try:
                doubt = self._put_back(reached, decoder, change, path, name)
            except Exception as error:  # a value of another version, or an object that takes no such value
                doubt = f"could not be set ({type(error).__name__}: {error})"
            if doubt is not None:
                doubts.append(f"`{path if name is None else f'{path}.{name}'}` {doubt}")
        doubts += [
            f"`{path if name is None else f'{path}.{name}'}` was set by hooks of this run alone"
            for (path, name), value in started.items()
            if not path.startswith(("optimizers[", "schedulers[")) and _decides(value)  # those are loaded later
        ]
        if doubts:
            reasons.append(f"state that no state_dict holds could not be put back: {_shown(doubts)}")
        return reasons

    def _put_back(
        self, reached: Reached, decoder: Decoder, change: Mapping[str, Any], path: str, name: Any
    ) -> str | None:
        """Put one value back. Returns why this is not possible."""
        node, encoded = reached.by_path.get(path), change["value"]
        held = node.object if node is not None else None
        if node is None or held is None:
            elsewhere = path.startswith(("class ", "module ", "callbacks[")) and _root(path) not in reached.by_path
            return None if elsewhere else "is not in this run"
        if class_path(type(held)) != change["class"]:
            return f"is a {class_path(type(held))} now, and was a {change['class']}"
        if name is not None:
            now = attributes(node).get(name, MISSING)
            if change["at_start"] and isinstance(now, str):
                return None  # such as the folder of this run
            if _is_as_saved(reached, now, encoded, decoder.table):
                return None
        elif _contents_are_as_saved(reached, node, encoded, decoder.table):
            return None
        if _begin(reached, node, name) != change["begin"] and not self._began_as_saved(
            reached, node, name, change, decoder
        ):
            return "did not begin with the value with which the run began that saved the checkpoint"
        if name is not None:
            set_attribute(node, name, decoder.value(encoded))
        elif node.kind == "flag":
            held.requires_grad_(bool(encoded))
        else:
            fill(held, decoder.filling(encoded))
            if node.kind == "tensor" and held.is_leaf and held.requires_grad != encoded["requires_grad"]:
                held.requires_grad_(encoded["requires_grad"])
        return None

    def _began_as_saved(self, reached: Reached, node: Node, name: Any, change: Any, decoder: Decoder) -> bool:
        """Return whether Lightning restored the value, and a hook has changed it since."""
        if name is None or node.derived:
            return False
        then = from_image(node.image.get(name, MISSING))
        return _is_as_saved(reached, then, change["value"], decoder.table)


def _object_at(reached: Reached) -> Any:
    def object_at(path: str) -> Any:
        held = reached.by_path[path].object
        if held is None:
            raise KeyError(path)
        return held

    return object_at


def _modes(trainer: Any) -> dict[int, bool]:
    """Return the modes of the modules before the validation that is running, by identity."""
    if not trainer.validating:
        return {}
    modes = trainer.fit_loop.epoch_loop.val_loop._module_mode.mode
    return {id(part): modes[name] for name, part in trainer.lightning_module.named_modules() if name in modes}


def _encoded(encoder: Encoder, node: Node, name: Any, value: Any) -> Encoded:
    if name is not None:
        return encoder.attempt(value)
    if node.kind == "flag":
        return bool(value.requires_grad)
    if node.kind == "iterator":
        raise NotPlainError(f"is a {class_path(type(value))}, whose position cannot be saved")
    return encoder.attempt_filling(_family(value), value)


def _family(value: Any) -> str:
    for family in (dict, set, list, collections.deque):
        if isinstance(value, family):
            return family.__name__
    return type(value).__name__


def _begin(reached: Reached, node: Node, name: Any) -> str:
    """Return what an object held at the beginning, as a digest that is the same in every process."""
    if node.derived:
        return "missing"
    if name is not None:
        return _digest(reached, from_image(node.image.get(name, MISSING)))
    if node.kind == "contents":
        entries = image_entries(node)
        return str(node.image[0]) if entries is None else _digest(reached, tuple(entries))
    image = node.image[1:] if node.kind == "tensor" else node.image
    return _digest(reached, repr(image))


def _digest(reached: Reached, value: Any) -> str:
    encoder = Encoder(reached.path_of)
    try:
        return digest(encoder.value(value), encoder.table)
    except NotPlainError:
        return f"a {class_path(type(value))}"


def _is_as_saved(reached: Reached, now: Any, encoded: Encoded, table: list[dict[str, Any]]) -> bool:
    by_value = isinstance(encoded, dict) and encoded.get("kind") == "new"
    encoder = Encoder(lambda value: None if by_value and value is now else reached.path_of(value))
    try:
        return equal(encoder.value(now), encoder.table, encoded, table)
    except NotPlainError:
        return False


def _contents_are_as_saved(reached: Reached, node: Node, encoded: Encoded, table: list[dict[str, Any]]) -> bool:
    held = node.object
    if node.kind == "flag":
        return bool(held.requires_grad == encoded)
    encoder = Encoder(reached.path_of)
    try:
        return equal(encoder.attempt_filling(_family(held), held), encoder.table, encoded, table)
    except NotPlainError:
        return False


def _same(one: Any, other: Any) -> bool:
    """Return whether two values are the same object, or equal and plain."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if type(one) is float:
        return repr(one) == repr(other)
    if type(one) in _PLAIN:
        return bool(one == other)
    if type(one) is tuple:
        return len(one) == len(other) and all(map(_same, one, other))
    return False


def _root(path: str) -> str:
    """Return the path of the object of the Trainer, the class or the module where a path begins."""
    if path.startswith(("class ", "module ")):
        return path
    match = re.match(r"\w+(\[[^\]]*\])?", path)
    return match[0] if match else path


def _decides(value: Any) -> bool:
    """Return whether a value may decide how training continues: a number, a tensor, or a container of such values."""
    if type(value) is str or type(value) not in (*_PLAIN, list, dict, set, torch.Tensor):
        return False
    if _holds_only_what_is_left_out(value):
        return False
    try:
        Encoder(lambda value: None).value(value)
    except NotPlainError:
        return False
    return True


def _holds_only_what_is_left_out(value: Any) -> bool:
    """Return whether a value is a container of loggers, files, warnings and the like."""
    if type(value) not in (dict, list, set):
        return False
    entries = list(value.values() if type(value) is dict else value)
    return bool(entries) and all(is_left_out(kind_of(entry)) for entry in entries)


def _changes_by_fetching(trainer: Any, path: str) -> bool:
    """Return whether code that runs before a batch is computed may change what is at a path."""
    root = _root(path)
    if root.startswith(("optimizers[", "schedulers[", "val[")):
        return False
    owner: Any = trainer.lightning_module if root == "model" else None
    base: type = pl.LightningModule
    if root.startswith("callbacks["):
        owner, base = dict(roots_of(trainer, ())).get(root), pl.Callback
    hooks = ("on_train_batch_start", "on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
    return owner is None or any(getattr(type(owner), hook, None) is not getattr(base, hook, None) for hook in hooks)


def _digest_of(collected: Mapping[str, Any]) -> str:
    sampled = lambda tensor: repr(sample_of_tensor(tensor)).encode()  # noqa: E731
    return digest({"kind": "list", "value": collected["changes"]}, collected["table"], sampled)


def _shown(texts: Iterable[str]) -> str:
    every = [as_text(text) for text in dict.fromkeys(texts)]
    more = len(every) - _MAX_SHOWN
    return "; ".join(every[:_MAX_SHOWN]) + (f"; and {more} more" if more > 0 else "")
