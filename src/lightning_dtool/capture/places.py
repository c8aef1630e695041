"""Functions that take the place of other code on the stack, so that warnings keep their file and line.

`warnings.warn` counts the frames of the callers, and shows and remembers the place that it finds there. A frame of this
package between a user's line and the function that it calls would change this place. A warning would then be shown
twice: for this place in the first batch, and for the right one afterwards.
"""

from collections.abc import Callable
from types import CodeType, FrameType, FunctionType
from typing import Any

import torch
from torch.overrides import handle_torch_function

_DEPTH = 6
"""Number of callers that are repeated. The warnings of torch count up to five frames."""

_Place = tuple[CodeType, int, int]


class Places:
    """Calls functions as if a frame further up the stack had called them."""

    def __init__(self) -> None:
        self._doubles: dict[_Place, FunctionType] = {}

    def call(self, caller: FrameType | None, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call a function below frames with the same files, lines and globals as a frame and its callers.

        Args:
            caller: The frame whose call of a torch function was intercepted.
            func: The function.
            args: Its arguments.
            kwargs: Its arguments by keyword.
        """
        if caller is not None and caller.f_code is handle_torch_function.__code__:
            # Functions written in Python hand themselves over: the frame in between is that of `func` itself.
            caller = caller.f_back and caller.f_back.f_back
        doubles: tuple[FunctionType, ...] = ()
        while caller is not None and len(doubles) < _DEPTH:
            doubles = (self._double(caller), *doubles)
            caller = caller.f_back
        return _hand_on(doubles, func, args, kwargs)

    def clear(self) -> None:
        """Forget the places, which refer to the globals of modules."""
        self._doubles.clear()

    def _double(self, frame: FrameType) -> FunctionType:
        place = (frame.f_code, frame.f_lineno, id(frame.f_globals))
        if place not in self._doubles:
            self._doubles[place] = stand_in(_hand_on, frame.f_code, frame.f_lineno - 1, frame.f_globals)
        return self._doubles[place]


def _hand_on(doubles: tuple[Any, ...], func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    return doubles[0](doubles[1:], func, args, kwargs) if doubles else func(*args, **kwargs)


def stand_in(template: Any, code: CodeType, line: int, names: dict[str, Any]) -> FunctionType:
    """Return a copy of a function that claims to be other code.

    Args:
        template: The function. It must not use global names other than those in `names`.
        code: The code that it claims to be.
        line: The line of its `def`.
        names: Its globals.
    """
    ours: CodeType = template.__code__
    claimed = ours.replace(co_filename=code.co_filename, co_name=code.co_name, co_firstlineno=line)
    return FunctionType(claimed, names, code.co_name, template.__defaults__, template.__closure__)


class ModuleCalls:
    """Observes the calls of all modules, without the frames that global module hooks add.

    Args:
        enter: Called with each module before its call.
        leave: Called with each module, its arguments and its result, which is None after an error.
    """

    def __init__(self, enter: Callable[[Any], None], leave: Callable[[Any, Any, Any], None]) -> None:
        self._original: Any = None
        self._observed: Any = None
        self._enter = enter
        self._leave = leave

    def start(self) -> bool:
        """Begin to observe. Return False if other code has replaced `torch.nn.Module.__call__`, which is left alone."""
        original: Any = torch.nn.Module.__call__
        if original is not torch.nn.Module._wrapped_call_impl:
            return False
        enter, leave = self._enter, self._leave

        def call(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            if self._compiled_call_impl is not None:
                return self._compiled_call_impl(*args, **kwargs)
            result = None
            enter(self)
            try:
                result = self._call_impl(*args, **kwargs)
                return result
            finally:
                leave(self, (args, kwargs), result)

        code: CodeType = original.__code__
        # In torch and in `call`, the call is at a fixed distance from the `def`.
        line = max(number for _, _, number in code.co_lines() if number is not None) - 6
        self._observed = stand_in(call, code, line, original.__globals__)
        self._original = original
        torch.nn.Module.__call__ = self._observed  # type: ignore[method-assign]
        return True

    def stop(self) -> None:
        """Stop observing. May be called several times."""
        if self._observed is not None and torch.nn.Module.__call__ is self._observed:
            torch.nn.Module.__call__ = self._original  # type: ignore[method-assign]
        self._observed = self._original = None
