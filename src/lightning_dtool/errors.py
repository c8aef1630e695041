"""The errors of this package.

Every error is a `LightningDtoolError` and also one of Python's standard types, so that code that knows nothing of
this package can catch it. The message says which dataset, what was expected, what was found and what to do; the
attributes say the same to a program.

```text
LightningDtoolError
├── InvalidURIError            ValueError         no installed storage broker reads this URI
├── InvalidNameError           ValueError         dtool does not allow this name
├── StoreError                 OSError            the store cannot be read or written; `kind` says why
├── DatasetNotFoundError       FileNotFoundError  no dataset at this URI
├── NotFrozenError             ValueError         the dataset is still being built
├── DatasetExistsError         FileExistsError    something is there already
├── CorruptDatasetError        ValueError         the metadata cannot be read
│   ├── UnsafeDatasetError                        the dataset reaches outside itself
│   └── VerificationError                         the content is not what was hashed
├── MissingItemError           FileNotFoundError  an item that is not there
├── MetadataKeyError           KeyError           an overlay or annotation that is not there
├── MetadataValueError         ValueError         a value that is not strict JSON
├── SelectionError             ValueError         a selection or split without items
├── DecodeError                ValueError         an item that cannot be decoded
├── NotACheckpointError        ValueError         the dataset holds no Lightning checkpoint
├── RecordError                ValueError         the record cannot be read
│   └── NewerSchemaError                          the record is from a newer version of this package
├── UnsafeCheckpointError      UnpicklingError    a safe load refuses the checkpoint
├── ModuleLoadError            ImportError        the model cannot be made from the checkpoint
├── PublishError               RuntimeError       a checkpoint was not published, with `strict=True`
├── EvaluationError            RuntimeError       a model cannot be run on the data
├── ReproductionError          RuntimeError       a recorded training cannot be run again
├── ConfigurationError         ValueError         arguments that do not fit together
├── MixedNamespaceError        TypeError          `pytorch_lightning` used together with `lightning`
├── UnsupportedStrategyError   RuntimeError       a strategy whose checkpoints cannot become datasets
└── EnvironmentCreationError   RuntimeError       an environment with recorded packages cannot be built

ProvenanceWarning              UserWarning        something was not recorded or not published
```
"""

import os
import pickle
from collections.abc import Sequence
from typing import Any, Literal

from lightning_dtool.printing import printable_lines


class LightningDtoolError(Exception):
    """Base class of every error that this package raises.

    Args:
        reason: What is wrong and what to do, without the URI.
        uri: The dataset or base URI that it is about. The message begins with it.
        item: The item within the dataset, by its relative path.
        path: A local file or folder that it is about. Without a URI the message begins with it.
        kind: The cause, for classes that distinguish several causes; see the class.

    Attributes:
        reason: The message without the address that it begins with.
        uri: As given.
        item: As given.
        path: As given, as a string.
        kind: As given.

    Example:
        >>> error = DatasetNotFoundError("no dataset here.", uri="file:///data/leaves")
        >>> str(error), error.uri, error.reason
        ('file:///data/leaves: no dataset here.', 'file:///data/leaves', 'no dataset here.')
    """

    def __init__(
        self,
        reason: str,
        *,
        uri: str | None = None,
        item: str | None = None,
        path: str | os.PathLike[str] | None = None,
        kind: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.uri = uri
        self.item = item
        self.path: str | None = None if path is None else os.fspath(path)
        self.kind = kind

    def __str__(self) -> str:
        """Return the message. What a terminal would interpret, in names that a stranger chose, is escaped."""
        address = self.uri or self.path
        return printable_lines(f"{address}: {self.reason}" if address else self.reason)


# -- addresses and stores -----------------------------------------------------------------------


class InvalidURIError(LightningDtoolError, ValueError):
    """A URI that no installed storage broker can read, or that is malformed."""


class InvalidNameError(LightningDtoolError, ValueError):
    """A name that dtool does not allow for a dataset, an overlay, an annotation or a tag."""


StoreErrorKind = Literal[
    "absent",
    "altered",
    "credentials",
    "cut_off",
    "denied",
    "full",
    "no_answer",
    "no_bucket",
    "offline",
    "other",
    "overloaded",
    "unsupported",
]
"""The causes of a `StoreError`. The class defines each of them."""


class StoreError(LightningDtoolError, OSError):
    """A base URI or a dataset that cannot be read or written: permissions, credentials, network, disk.

    Args:
        reason: As for the base class.
        uri: As for the base class.
        item: As for the base class.
        path: As for the base class.
        kind: The cause:

            - `"absent"`: a file or an object is not there;
            - `"altered"`: the store received or holds something other than what was sent;
            - `"credentials"`: there are no credentials, or they are incomplete;
            - `"cut_off"`: the answer broke off before its end;
            - `"denied"`: the credentials or the permissions do not allow this;
            - `"full"`: there is no space left on the disk, or in the user's quota;
            - `"no_answer"`: the server cannot be reached or gives no whole answer;
            - `"no_bucket"`: there is no such bucket;
            - `"offline"`: only a record names this address, and it is not opened without consent;
            - `"overloaded"`: the server fails, or asks the client to try again later;
            - `"unsupported"`: this kind of store cannot do this;
            - `"other"` (default): anything else.
    """

    def __init__(
        self,
        reason: str,
        *,
        uri: str | None = None,
        item: str | None = None,
        path: str | os.PathLike[str] | None = None,
        kind: StoreErrorKind = "other",
    ) -> None:
        super().__init__(reason, uri=uri, item=item, path=path, kind=kind)

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep `errno`, which an `OSError` does not pickle as an attribute."""
        return type(self), self.args, {**self.__dict__, "errno": self.errno}


class DatasetNotFoundError(LightningDtoolError, FileNotFoundError):
    """A URI at which there is no dataset."""


class NotFrozenError(LightningDtoolError, ValueError):
    """A dataset that is still being built (a proto dataset)."""


class DatasetExistsError(LightningDtoolError, FileExistsError):
    """A new dataset whose place is already taken."""


# -- what a dataset holds -----------------------------------------------------------------------


class CorruptDatasetError(LightningDtoolError, ValueError):
    """A dataset whose metadata cannot be read: an empty, truncated or inconsistent manifest."""


class UnsafeDatasetError(CorruptDatasetError):
    """A dataset that tries to reach outside itself, for instance with an item named `../../x`."""


class VerificationError(CorruptDatasetError):
    """Content that differs from its recorded size or hash."""


class MissingItemError(LightningDtoolError, FileNotFoundError):
    """An item that is not in the manifest, or that is in the manifest but not in the store."""


class MetadataKeyError(LightningDtoolError, KeyError):
    """An overlay or annotation that is not there, or that does not cover every item."""


class MetadataValueError(LightningDtoolError, ValueError):
    """A value of an annotation or overlay that is not strict JSON: NaN, or an integer beyond 8 bytes."""


class SelectionError(LightningDtoolError, ValueError):
    """A selection or a split that leaves no items, or that cannot be made."""


class DecodeError(LightningDtoolError, ValueError):
    """An item whose content could not be decoded, or a target that is not a class."""


# -- checkpoints and records --------------------------------------------------------------------


class NotACheckpointError(LightningDtoolError, ValueError):
    """A dataset that holds no Lightning checkpoint."""


class RecordError(LightningDtoolError, ValueError):
    """A provenance record that cannot be read."""


class NewerSchemaError(RecordError):
    """A provenance record written by a newer version of this package."""


class UnsafeCheckpointError(LightningDtoolError, pickle.UnpicklingError):
    """A checkpoint that a safe load refuses, because it holds more than tensors and plain values."""


class ModuleLoadError(LightningDtoolError, ImportError):
    """A model that cannot be made from a checkpoint, for example because its class cannot be imported."""


class PublishError(LightningDtoolError, RuntimeError):
    """A checkpoint that could not be published (raised only with `strict=True`)."""


class EvaluationError(LightningDtoolError, RuntimeError):
    """A model that could not be run on some data, or whose output cannot be understood."""


ReproductionErrorKind = Literal[
    "failed",
    "killed",
    "missing_dataset",
    "missing_file",
    "missing_module",
    "no_data",
    "no_packages",
    "no_parent",
    "no_program",
    "no_source",
    "not_reached",
    "not_started",
    "refused_network",
    "refused_write",
    "timed_out",
    "unprotected",
]
"""The causes of a `ReproductionError`. The class defines each of them."""


class ReproductionError(LightningDtoolError, RuntimeError):
    """A recorded training that could not be run again.

    Args:
        reason: As for the base class.
        uri: As for the base class.
        item: As for the base class.
        path: As for the base class.
        kind: The cause:

            - `"failed"`: the training raised an error;
            - `"killed"`: a signal ended its process;
            - `"missing_dataset"`: a dataset that it reads is not there;
            - `"missing_file"`: a file that it reads is not there;
            - `"missing_module"`: a module that it imports is not installed;
            - `"no_data"`: no dtool dataset was recorded that other data could replace;
            - `"no_packages"`: the list of packages was not recorded;
            - `"no_parent"`: the trainings that it was resumed from form too long a chain;
            - `"no_program"`: the record does not contain the program that ran;
            - `"no_source"`: the source code was not recorded, or the given code is not a project;
            - `"not_reached"`: it ended before the moment of the checkpoint;
            - `"not_started"`: its process could not start;
            - `"refused_network"`: it wants to connect to another machine, which is not allowed;
            - `"refused_write"`: it wants to write outside its own folders, which is not allowed;
            - `"timed_out"`: it took longer than allowed;
            - `"unprotected"`: nothing could keep it from writing to the original's folders, so it was not started.
        output: The last lines of the output of the training; empty if it did not start.
        notes: Remarks, such as what protected files while it ran.

    Attributes:
        output: As given.
        notes: As given.
    """

    def __init__(
        self,
        reason: str,
        *,
        kind: ReproductionErrorKind,
        uri: str | None = None,
        item: str | None = None,
        path: str | os.PathLike[str] | None = None,
        output: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(reason, uri=uri, item=item, path=path, kind=kind)
        self.output = tuple(output)
        self.notes = tuple(notes)

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what pickle needs: `kind` has no default."""
        return _reproduction_error, (self.reason, self.kind), self.__dict__


def _reproduction_error(reason: str, kind: ReproductionErrorKind) -> ReproductionError:
    return ReproductionError(reason, kind=kind)


# -- how it is used -----------------------------------------------------------------------------


class ConfigurationError(LightningDtoolError, ValueError):
    """Arguments that do not fit together."""


class MixedNamespaceError(LightningDtoolError, TypeError):
    """An object from `pytorch_lightning` used together with `lightning`."""


class UnsupportedStrategyError(LightningDtoolError, RuntimeError):
    """A Trainer strategy whose checkpoints do not pass through Lightning's CheckpointIO."""


class EnvironmentCreationError(LightningDtoolError, RuntimeError):
    """A virtual environment with recorded packages that could not be built.

    `kind` is `"python"` if the recorded version of Python is missing or an environment could not be made, and
    `"packages"` if packages could not be installed. `path` is the folder of the environment, which has been removed.
    """


class ProvenanceWarning(UserWarning):
    """Something that was not recorded or not published, and did not stop the training."""

    def __str__(self) -> str:
        """Return the message, escaped like that of an error."""
        return printable_lines(super().__str__())
