"""What LearningRateFinder and BatchSizeFinder have found, which Lightning saves nowhere.

Their searches save a checkpoint, train for some steps, and restore that checkpoint. A search at the start of a resumed
run would replace the checkpoint from which the run resumes, and training would begin again. The uninterrupted run
searched only once, so a resumed run takes what was found instead.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.tuner.lr_finder import _LRCallback, _LRFinder
from lightning.pytorch.utilities.parsing import lightning_getattr, lightning_hasattr, lightning_setattr

from lightning_dtool.random_states import random_states_kept
from lightning_dtool.resuming.replacing import replace_method

_METHODS: dict[type[Any], str] = {LearningRateFinder: "lr_find", BatchSizeFinder: "scale_batch_size"}
"""The method of each kind of finder that begins a search. Subclasses call it from hooks of their choice."""


def in_trial(trainer: Any) -> bool:
    """Return True while the trial steps of a search run. The callbacks of the Trainer are then replaced.

    Args:
        trainer: The Trainer.
    """
    callbacks = trainer.callbacks
    return not callbacks or isinstance(callbacks[0], _LRCallback)


def finders(callbacks: Sequence[Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield the finders among callbacks: a name that is the same in every run, the method that searches, the callback.

    Args:
        callbacks: The callbacks of the Trainer.
    """
    counts: dict[str, int] = {}
    for callback in callbacks:
        for kind, method in _METHODS.items():
            if isinstance(callback, kind):
                name = type(callback).__name__
                counts[name] = counts.get(name, 0) + 1
                yield f"{name}[{counts[name] - 1}]", method, callback


class Searches:
    """Notes the searches of one fit for its checkpoints. When the fit resumes, they are not made again."""

    def __init__(self) -> None:
        self._searched: set[str] = set()
        self._expected: Mapping[str, Any] | None = None
        self._reasons: list[str] = []

    def install(self, trainer: Any) -> None:
        """Replace the methods that search.

        Args:
            trainer: The Trainer, in `setup` of a fit.
        """
        for name, method, finder in finders(trainer.callbacks):
            replace_method(finder, method, partial(self._search, trainer, name, finder))
        replace_method(
            trainer._checkpoint_connector, "restore", partial(self._end_trial, trainer._checkpoint_connector)
        )

    def save(self, trainer: Any, module: Any) -> dict[str, dict[str, Any]]:
        """Return what the finders have found so far, as plain values.

        Args:
            trainer: The Trainer.
            module: The LightningModule.
        """
        found = {}
        for name, _, finder in finders(trainer.callbacks):
            if name in self._searched:
                with random_states_kept():  # the attribute may be a property of the user's
                    attribute = _attribute(finder, module)
                    value = None if attribute is None else lightning_getattr(module, attribute)
                found[name] = {"attribute": attribute, "value": value, "result": _result(finder)}
        return found

    def expect(self, found: Mapping[str, Any]) -> None:
        """Make no search until `restore`. Called before the hooks at the start of a run that resumes.

        Args:
            found: What `save` returned.
        """
        self._expected = found

    def restore(self, trainer: Any, module: Any) -> list[str]:
        """Restore what was found, just before training continues. Returns the reasons why the resume may differ.

        Args:
            trainer: The Trainer.
            module: The LightningModule.
        """
        expected, self._expected = self._expected or {}, None
        present = {name: finder for name, _, finder in finders(trainer.callbacks)}
        for name, found in expected.items():
            attribute, value = found["attribute"], found["value"]
            if name in present:
                self._searched.add(name)
                _restore(trainer, module, present[name], found)
            elif attribute is not None and lightning_hasattr(module, attribute):
                with random_states_kept():
                    now = lightning_getattr(module, attribute)
                if now != value:
                    self._reasons.append(
                        f"{name.partition('[')[0]} had set {attribute} to {value!r}, and without it that is {now!r}"
                    )
        reasons, self._reasons = self._reasons, []
        return reasons

    def _search(self, trainer: Any, name: str, finder: Any, original: Callable[..., Any], *args: Any, **kw: Any) -> Any:
        """Replaces the method that searches."""
        if self._expected is None:
            self._searched.add(name)
            return original(*args, **kw)
        if name in self._expected:
            return _restore(trainer, trainer.lightning_module, finder, self._expected[name])
        self._reasons.append(f"{type(finder).__name__} did not search in the earlier run, and is left out in this one")
        return None

    def _end_trial(self, connector: Any, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Replaces the method with which the tuner restores its own checkpoint, and which forgets any other."""
        resumed = connector._loaded_checkpoint, connector._ckpt_path
        result = original(*args, **kwargs)
        if self._expected is not None:
            connector._loaded_checkpoint, connector._ckpt_path = resumed
            self._reasons.append("the tuner searched again before training went on")
        return result


def _restore(trainer: Any, module: Any, finder: Any, found: Mapping[str, Any]) -> None:
    """Set what a finder found in the earlier run."""
    attribute, value = found["attribute"], found["value"]
    if attribute is not None and lightning_hasattr(module, attribute):
        changed = lightning_getattr(module, attribute) != value
        lightning_setattr(module, attribute, value)
        if changed and isinstance(finder, BatchSizeFinder):
            # Loaders that exist already have another batch size. The fit loop creates those that are missing.
            trainer.fit_loop._combined_loader = trainer.fit_loop.epoch_loop.val_loop._combined_loader = None
    if isinstance(finder, BatchSizeFinder):
        finder.optimal_batch_size = found["result"]
    else:
        finder.optimal_lr = _rebuilt(found["result"])


def _attribute(finder: Any, module: Any) -> str | None:
    if isinstance(finder, BatchSizeFinder):
        return finder._batch_arg_name
    if not finder._update_attr:
        return None
    names = [finder._attr_name] if finder._attr_name else ["lr", "learning_rate"]
    return next((name for name in names if lightning_hasattr(module, name)), None)


def _result(finder: Any) -> Any:
    if isinstance(finder, BatchSizeFinder):
        return finder.optimal_batch_size
    search = finder.optimal_lr
    if search is None:
        return None
    return {
        "mode": search.mode,
        "lr_min": float(search.lr_min),
        "lr_max": float(search.lr_max),
        "num_training": search.num_training,
        "results": {name: [float(value) for value in values] for name, values in search.results.items()},
        "suggested": getattr(search, "_optimal_idx", None),
    }


def _rebuilt(saved: Mapping[str, Any] | None) -> Any:
    if saved is None:
        return None
    search = _LRFinder(saved["mode"], saved["lr_min"], saved["lr_max"], saved["num_training"])
    search.results = {name: list(values) for name, values in saved["results"].items()}
    if saved["suggested"] is not None:
        search._optimal_idx = saved["suggested"]
    return search
