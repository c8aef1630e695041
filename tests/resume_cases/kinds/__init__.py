"""Trainings that keep state where Lightning does not save it, as users write them."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from resume_cases.kinds import callbacks, data, hooks, lightnings_own, metrics, modules, optimizers
from resume_cases.models import MODELS, Net, Training

KINDS: dict[str, Training] = {
    name: replace(training, same_seed=True)
    for kinds in (lightnings_own, hooks, modules, metrics, callbacks, optimizers, data)
    for name, training in kinds.KINDS.items()
}
"""Trainings by name. The run that resumes one is the same script, with the same seed."""

_ALONE = ("two loaders", "manual optimization")
"""What trainings that combine with no other begin with: their batches, or their `training_step`, are others."""


def training_of(name: str) -> Training:
    """Return a training by its name; `A + B` is a training with the module, callbacks and data of both."""
    first, *others = [(MODELS | KINDS)[part] for part in name.split(" + ")]
    for other in others:
        first = _combined(first, other)
    return first


def _combined(one: Training, two: Training) -> Training:
    modules = [each.module for each in (one, two) if each.module is not Net]
    module = type("Combined", tuple(modules), {}) if len(set(modules)) == 2 else (modules or [Net])[0]
    return Training(
        module=module,
        settings=lambda: _settings(one.settings(), two.settings()),
        data=one.data or two.data,
        transform=one.transform or two.transform,
        begin=_each(one.begin, two.begin),
        inside=next((each.inside for each in (one, two) if each.inside != (5, 3)), (5, 3)),
        same_seed=True,
    )


def _each(*begins: Callable[[], None] | None) -> Callable[[], None]:
    def begin() -> None:
        for each in begins:
            if each is not None:
                each()

    return begin


def _settings(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    return {**one, **two, "callbacks": [*one.get("callbacks", []), *two.get("callbacks", [])]}


def combinations(seed: int, count: int) -> list[str]:
    """Return names of random combinations of a module with callbacks or settings, and with data."""
    chosen = random.Random(seed)
    names = [name for name in KINDS if not name.startswith(_ALONE)]
    with_data = [name for name in names if KINDS[name].data or KINDS[name].transform]
    with_settings = [name for name in names if KINDS[name].settings is not dict and name not in with_data]
    with_module = [name for name in names if name not in {*with_data, *with_settings}]
    return [" + ".join(map(chosen.choice, (with_module, with_settings, with_data))) for _ in range(count)]
