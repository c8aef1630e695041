"""Classes that cannot be imported again: those inside functions, and those of the script or notebook."""

from collections.abc import Iterator
from typing import Any

from lightning_dtool.record import Code, Gaps, Model

_MOVE = "define it at the top of a module that can be imported"


def add_class_gaps(model: Model, code: Code, gaps: Gaps) -> None:
    """Add a gap for the model's class and for each hyperparameter that other programs cannot import.

    The record describes these values, but the checkpoint contains them as objects. The gaps say how it can be loaded.

    Args:
        model: The record's section on the model.
        code: The record's section on the code.
        gaps: Receives the gaps.
    """
    if "<locals>" in model.class_path:
        trust = ", or trust_source=True" if model.class_path.partition(":")[0] in code.modules else ""
        reason = (
            f"{model.class_path} is defined inside a function and cannot be imported: load_module needs cls=…{trust}"
        )
        gaps.at("model.class_path").add(reason, _MOVE)
    for name, value in model.hyperparameters.items():
        found = dict.fromkeys(_class_paths(value))
        inside = [path for path in found if "<locals>" in path or "<lambda>" in path]
        of_script = [path for path in found if path.startswith("__main__:") and path not in inside]
        at_value = gaps.at("checkpoint.hyper_parameters").at(name)
        if inside:
            where = "is defined inside a function" if "<locals>" in inside[0] else "has no name"
            reason = f"{inside[0]} {where} and cannot be imported: load_module needs {name}=…"
            at_value.add(reason, _MOVE)
        if of_script:
            way = "trust_source=True" if "__main__" in code.modules else f"{name}=…, because its source is not recorded"
            reason = f"{of_script[0]} is defined in the program that was started: load_module needs {way}"
            at_value.add(reason, _MOVE)


def _class_paths(value: Any) -> Iterator[str]:
    """Yield the paths of the classes and functions that a value in JSON consists of."""
    if isinstance(value, dict):
        if isinstance(value.get("type"), str):
            yield value["type"]
            if value["type"] in ("builtins:type", "builtins:function") and isinstance(value.get("name"), str):
                yield value["name"]
        for entry in value.values():
            yield from _class_paths(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _class_paths(entry)
