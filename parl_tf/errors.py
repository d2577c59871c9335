"""The package's own errors, each a subclass of the built-in error a caller would expect."""


class InputError(ValueError):
    """An argument, array or name that cannot be used; the message says what would be."""


class MissingFileError(FileNotFoundError):
    """Data, a run or a model that is not where it was looked for."""


class UnreadableFileError(OSError):
    """A file that is there but is not what its name says."""


class DivergedError(RuntimeError):
    """A training whose loss is no longer a finite number."""


class ExistingRunError(FileExistsError):
    """An output that would overwrite a finished run or a result."""


class MissingExtraError(ImportError):
    """A feature whose optional extra is not installed; the message says how to install it."""


class BackendError(ImportError):
    """Keras on another backend than TensorFlow; the message says how to choose that."""
