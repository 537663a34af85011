"""Errors of edgecl: one line each, saying what was given, what was expected and what to do."""


class EdgeclError(Exception):
    """Base of all errors that edgecl raises on purpose; `exit_code` is the command's status."""

    exit_code = 3


class UsageError(EdgeclError, ValueError):
    """An option or argument that cannot be meant: exit status 2."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting that edgecl does not know or cannot use."""


class ShapeError(UsageError):
    """An array of another shape or dtype than expected."""


class RequestError(EdgeclError, RuntimeError):
    """A request that cannot be done in this state: exit status 3."""


class UnknownClassError(RequestError):
    """A class that was never learned."""


class UnknownSampleError(RequestError):
    """A sample, or an entry of the review queue, that is not there."""


class NothingLearnedError(RequestError):
    """A prediction or evaluation before the first sample."""


class SourceError(RequestError):
    """A source that does not exist or cannot be read at all."""


class DecodeError(RequestError):
    """One picture that cannot be decoded; a stream skips, names and counts it."""


class WeightsError(RequestError):
    """Backbone weights that are missing or do not fit."""


class MissingPackageError(RequestError, ImportError):
    """An optional package that is not installed; the message names the extra."""


class ProviderError(RequestError):
    """An execution provider that was asked for and is not in use."""


class HomeLockedError(RequestError):
    """Another process writes to the same home."""


class StoreError(RequestError, OSError):
    """The store cannot be opened or written."""


class IntegrityError(EdgeclError):
    """A hash, schema or setting that must hold does not: exit status 4."""

    exit_code = 4


class KeyDestroyedError(IntegrityError):
    """Sealed data of a class whose key was destroyed when it was unlearned."""


class FeatureMapError(IntegrityError):
    """A feature, statistic or engine made under another frozen map."""


class ParityError(IntegrityError):
    """An exported engine that differs from the model it was made from."""
