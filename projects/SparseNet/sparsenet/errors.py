"""Errors that users meet. Each message says what must hold, what came, and what to do.

Every class also derives from the built-in that a caller would expect, so that either can be caught.
"""


class SparseNetError(Exception):
    """Root of all errors raised on purpose by this package."""


class ConfigError(SparseNetError, ValueError):
    """A configuration key or value that cannot work."""


class DatasetError(SparseNetError, ValueError):
    """A dataset that contradicts itself."""


class DatasetNotFoundError(SparseNetError, FileNotFoundError):
    """A dataset that is not where it was looked for; the message shows the expected tree."""


class AnnotationError(SparseNetError, ValueError):
    """A malformed annotation; the message names the file and the place inside it."""


class ImageReadError(SparseNetError, OSError):
    """An image that is missing, unreadable, truncated, or larger than allowed.

    Attributes:
        path: The file, where whoever reads several of them has said which it was.
    """

    path: str | None = None


class CheckpointError(SparseNetError, RuntimeError):
    """Weights that cannot be loaded safely or that fit nothing in the model."""


class NumericalError(SparseNetError, FloatingPointError):
    """NaN or infinity where the computation cannot go on."""


class OutputError(SparseNetError, OSError):
    """A folder or file that cannot be written."""


class MissingDependencyError(SparseNetError, ImportError):
    """An optional package that is needed here; the message names the extra that brings it."""
