"""The errors of this package: one small tree.

Every error is a `LightningDtoolError` and, besides, one of Python's standard types, so that code
that knows nothing of this package can catch it. Every message names the URI, what was expected,
what was found, and what to do.
"""

import pickle


class LightningDtoolError(Exception):
    """Base class of every error that this package raises."""


# -- addresses and stores -----------------------------------------------------------------------


class InvalidURIError(LightningDtoolError, ValueError):
    """A URI that no installed storage broker can read, or that is malformed."""


class InvalidNameError(LightningDtoolError, ValueError):
    """A name that dtool does not allow for a dataset, an overlay, an annotation or a tag."""


class StoreError(LightningDtoolError, OSError):
    """A base URI or a dataset that cannot be read or written: permissions, credentials, network, disk."""


class DatasetNotFoundError(LightningDtoolError, FileNotFoundError):
    """No dataset at this URI."""


class NotFrozenError(LightningDtoolError, ValueError):
    """A dataset that is still being built (a proto dataset)."""


class DatasetExistsError(LightningDtoolError, FileExistsError):
    """Something already stands where a new dataset should go."""


# -- what a dataset holds -----------------------------------------------------------------------


class CorruptDatasetError(LightningDtoolError, ValueError):
    """A dataset whose metadata cannot be read: an empty, truncated or inconsistent manifest."""


class UnsafeDatasetError(CorruptDatasetError):
    """A dataset that tries to reach outside itself, for instance with an item named `../../x`."""


class VerificationError(CorruptDatasetError):
    """Content that differs from its recorded size or hash."""


class MissingItemError(LightningDtoolError, FileNotFoundError):
    """An item that the manifest lists and the store does not hold, or that nobody lists."""


class MetadataKeyError(LightningDtoolError, KeyError):
    """An overlay or annotation that is not there, or that does not cover every item."""

    def __str__(self) -> str:
        """Return the message as it was written: KeyError would show its repr."""
        return str(self.args[0]) if self.args else ""


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
    """A model class that cannot be imported, or code from a record that nobody has trusted."""


class PublishError(LightningDtoolError, RuntimeError):
    """A checkpoint that could not be published (raised only with `strict=True`)."""


class EvaluationError(LightningDtoolError, RuntimeError):
    """A model that could not be run on some data, or whose output cannot be understood."""


class ReproductionError(LightningDtoolError, RuntimeError):
    """A recorded training that could not be run again."""


# -- how it is used -----------------------------------------------------------------------------


class ConfigurationError(LightningDtoolError, ValueError):
    """Arguments that do not fit together."""


class MixedNamespaceError(LightningDtoolError, TypeError):
    """An object from `pytorch_lightning` used together with `lightning`."""


class UnsupportedStrategyError(LightningDtoolError, RuntimeError):
    """A Trainer strategy whose checkpoints do not pass through Lightning's CheckpointIO."""


class EnvironmentCreationError(LightningDtoolError, RuntimeError):
    """A virtual environment with recorded packages that could not be built."""


class ProvenanceWarning(UserWarning):
    """Something that was not recorded or not published, and did not stop the training."""
