"""Tensors that are bitwise equal: which entries of a model a file, or an earlier run, holds."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

import torch
from torch.nn.parameter import is_lazy

from lightning_dtool.watch.files import sample_of

_SIGNIFICANT = 8
"""Minimum number of elements of a tensor that says by itself where it is from."""


@dataclass(frozen=True)
class Candidate:
    """A tensor of a source, read when it is compared.

    Attributes:
        name: Its name in the source.
        shape: Its shape.
        sample: Returns some of its elements, at the positions that `positions` gives.
        equals: Tells whether it is bitwise equal to a tensor, once converted to the type of that tensor.
    """

    name: str
    shape: tuple[int, ...]
    sample: Callable[[], torch.Tensor]
    equals: Callable[[torch.Tensor], bool]


@dataclass(frozen=True)
class Entry:
    """A tensor of the model.

    Attributes:
        name: Its name in the state dict.
        tensor: The tensor.
        sample: Some of its elements.
        significant: Whether it says by itself where it is from. A constant or tiny tensor does not.
    """

    name: str
    tensor: torch.Tensor
    sample: torch.Tensor
    significant: bool


@dataclass
class Matches:
    """The entries of the model that one source holds."""

    pairs: dict[str, str] = field(default_factory=dict)
    """The name in the source, by the name in the model."""

    def names(self) -> set[str]:
        """Return the names in the model."""
        return set(self.pairs)


class ModelTensors:
    """The tensors of a model, prepared for comparisons.

    Args:
        state: The state dict.
    """

    def __init__(self, state: Mapping[str, object]) -> None:
        self.entries: dict[str, Entry] = {}
        self._by_shape: dict[tuple[int, ...], dict[torch.dtype, dict[bytes, list[Entry]]]] = {}
        with torch.no_grad():
            plain = {name: tensor for name, tensor in state.items() if is_plain(tensor)}
            samples = {name: sample_of(tensor) for name, tensor in plain.items()}
            varied = {name for name, tensor in plain.items() if _is_varied(tensor, samples[name])}
        # In a model of tiny tensors, these must do.
        chosen = {name for name in varied if plain[name].numel() >= _SIGNIFICANT} or varied
        for name, tensor in plain.items():
            entry = Entry(name, tensor, samples[name], name in chosen)
            self.entries[name] = entry
            if entry.significant:
                by_type = self._by_shape.setdefault(tuple(tensor.shape), {})
                by_type.setdefault(tensor.dtype, {}).setdefault(_key(entry.sample), []).append(entry)

    def size(self, names: Iterable[str]) -> int:
        """Return the number of elements of some entries."""
        return sum(self.entries[name].tensor.numel() for name in names)

    def significant(self, names: Iterable[str]) -> set[str]:
        """Return those entries that say by themselves where they are from."""
        return {name for name in names if self.entries[name].significant}

    def matches(self, candidates: Sequence[Candidate]) -> Matches:
        """Return the entries that are bitwise equal to tensors of a source.

        A significant entry may have another name in the source. The other entries count only if their names correspond
        to each other as those of the significant ones do, for example `backbone.fc.bias` and `model.fc.bias`.

        Args:
            candidates: The tensors of the source.
        """
        found = Matches()
        with torch.no_grad():
            for candidate in candidates:
                for entry in self._alike(candidate):
                    # Of equal tensors, the one with the same name is preferred.
                    known = found.pairs.get(entry.name)
                    if (known is None or _common(entry.name, candidate.name) > _common(entry.name, known)) and (
                        candidate.equals(entry.tensor)
                    ):
                        found.pairs[entry.name] = candidate.name
            self._add_insignificant(found, candidates)
        return found

    def copies(self, name: str) -> set[str]:
        """Return the names of the other entries that are bitwise equal to a significant entry."""
        entry = self.entries[name]
        alike = self._by_shape[tuple(entry.tensor.shape)][entry.tensor.dtype][_key(entry.sample)]
        mine = entry.tensor.detach().cpu()
        return {other.name for other in alike if other is not entry and same_bits(mine, other.tensor.detach().cpu())}

    def _alike(self, candidate: Candidate) -> Sequence[Entry]:
        """Return the significant entries that have the shape of a candidate and the elements that are sampled."""
        by_type = self._by_shape.get(candidate.shape)
        if not by_type:
            return ()
        sample = candidate.sample()
        return [
            entry
            for dtype, by_sample in by_type.items()
            for entry in by_sample.get(_key(_converted(sample, dtype)), ())
        ]

    def _add_insignificant(self, found: Matches, candidates: Sequence[Candidate]) -> None:
        prefixes = {_prefixes(mine, theirs) for mine, theirs in found.pairs.items()}
        by_name = {candidate.name: candidate for candidate in candidates}
        for name, entry in self.entries.items():
            if entry.significant:
                continue
            for mine, theirs in prefixes:
                other = by_name.get(theirs + name[len(mine) :]) if name.startswith(mine) else None
                if other is not None and other.shape == tuple(entry.tensor.shape) and other.equals(entry.tensor):
                    found.pairs[name] = other.name
                    break


def candidate(name: str, tensor: torch.Tensor) -> Candidate:
    """Return a tensor as a candidate."""
    return lazy_candidate(name, tuple(tensor.shape), lambda: tensor)


def lazy_candidate(name: str, shape: tuple[int, ...], read: Callable[[], torch.Tensor]) -> Candidate:
    """Return a tensor of a known shape as a candidate. It is read when it is compared."""

    def equals(other: torch.Tensor) -> bool:
        return same_bits(_converted(read(), other.dtype), other.detach().cpu())

    return Candidate(name, shape, lambda: sample_of(read()), equals)


def sampled_candidate(
    name: str, shape: tuple[int, ...], sample: torch.Tensor, equals: Callable[[torch.Tensor], bool]
) -> Candidate:
    """Return a tensor as a candidate of which a sample was kept. The rest is needed only if the sample is equal."""
    return Candidate(name, shape, lambda: sample, equals)


def is_plain(tensor: object) -> TypeGuard[torch.Tensor]:
    """Return True for a tensor with elements that can be compared: not sharded, sparse, quantised, lazy or on meta."""
    return (
        isinstance(tensor, torch.Tensor)
        and not is_lazy(tensor)
        and not hasattr(tensor, "__tensor_flatten__")
        and not hasattr(tensor, "to_local")
        and tensor.layout is torch.strided
        and not (tensor.is_quantized or tensor.is_meta or tensor.is_nested)
        and tensor.numel() > 0
    )


def named_tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers of a module, by each of their names."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return parameters | dict(module.named_buffers(remove_duplicate=False))


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return True if two tensors of one type on the CPU are bitwise equal. NaN equals itself, and 0 differs from -0."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(_as_bytes(a), _as_bytes(b))


def digest(tensor: torch.Tensor) -> bytes:
    """Return the SHA-256 of the elements of a tensor."""
    return hashlib.sha256(_as_bytes(tensor.detach().cpu()).numpy().data).digest()


def patterns(chosen: set[str], names: Iterable[str]) -> list[str]:
    """Return chosen names of a state dict, with `prefix.*` for all names below a prefix.

    Args:
        chosen: Some of the names.
        names: All names.

    Example:
        >>> patterns({"a.x.w", "a.x.b", "b.w"}, ["a.x.w", "a.x.b", "a.y.w", "b.w", "b.b"])
        ['a.x.*', 'b.w']
    """
    names = list(names)
    partly = {prefix for name in names if name not in chosen for prefix in _parents(name)}
    found: dict[str, None] = {}
    for name in names:
        if name in chosen:
            whole = next((prefix for prefix in _parents(name) if prefix not in partly), None)
            found[name if whole is None else f"{whole}*"] = None
    return list(found)


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join([*parts[:end], ""]) for end in range(len(parts))]


def _is_varied(tensor: torch.Tensor, sample: torch.Tensor) -> bool:
    """Return False for a tensor of one or two values, such as a constant, an identity matrix or a mask."""
    if len(set(sample.tolist())) > 2:
        return True
    flat = tensor.detach().reshape(-1)
    # Most tensors of two values are small. The elements of a large one are looked through for a third value.
    other = flat[flat != flat[0]]
    return len(other) > 0 and bool((other != other[0]).any())


def _key(sample: torch.Tensor) -> bytes:
    return _as_bytes(sample).numpy().tobytes()


def _converted(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor in another floating point type: weights of 32 bits may have been loaded into 16."""
    return tensor.to(dtype) if tensor.is_floating_point() and dtype.is_floating_point else tensor


def _as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)


def _common(a: str, b: str) -> int:
    """Return the number of parts with which two dotted names end in the same way."""
    count = 0
    for one, other in zip(reversed(a.split(".")), reversed(b.split(".")), strict=False):
        if one != other:
            break
        count += 1
    return count


def _prefixes(mine: str, theirs: str) -> tuple[str, str]:
    """Return how two dotted names begin before the part with which both end."""
    end = _common(mine, theirs)
    parts = [name.split(".") for name in (mine, theirs)]
    first, second = ("".join(f"{part}." for part in names[: len(names) - end]) for names in parts)
    return first, second
