"""The package's own errors, each a subclass of the built-in error a caller would expect."""


class InputError(ValueError):
    """An invalid argument, array or name; the message says what was expected.

    Example:
        >>> try:
        ...     parl_tf.load_dataset("cifar")
        ... except parl_tf.InputError as error:
        ...     print(error)
        Unknown data set. Did you mean cifar10 or cifar100? Expected one of ... Received: 'cifar'.
    """


class MissingFileError(FileNotFoundError):
    """There is no data, run or model at the given path.

    Example:
        >>> try:
        ...     parl_tf.load_model("runs/nothing")
        ... except parl_tf.MissingFileError as error:
        ...     print(error)
        No run folder or Keras file at runs/nothing.
    """


class UnreadableFileError(OSError):
    """A file is damaged or not of the expected kind.

    Example:
        >>> _ = pathlib.Path("broken.keras").write_text("not a model")
        >>> try:
        ...     parl_tf.load_model("broken.keras")
        ... except parl_tf.UnreadableFileError as error:
        ...     print(error)
        broken.keras is not a Keras model. Expected a .keras file.
    """


class DivergedError(RuntimeError):
    """The loss or the weights became infinite or NaN in training.

    Example:
        >>> issubclass(parl_tf.DivergedError, RuntimeError)
        True
    """


class ExistingRunError(FileExistsError):
    """The output would overwrite a finished run, a result or other files.

    Example:
        >>> _ = pathlib.Path("letter.txt").write_text("Dear Sir")
        >>> try:
        ...     parl_tf.train("parl", dataset, out=".")
        ... except parl_tf.ExistingRunError as error:
        ...     print(error)
        . holds something that is not a run. Expected a new or empty folder; nothing was changed.
    """


class MissingExtraError(ImportError):
    """A feature needs an optional extra that is not installed; the message says how to install it.

    Example:
        >>> try:
        ...     attack = parl_tf.Square()
        ... except parl_tf.MissingExtraError as error:
        ...     print(error)  # pip install 'parl_tf[art]'
    """


class BackendError(ImportError):
    """Keras uses a backend other than TensorFlow; the message says how to change it.

    `import parl_tf` raises it, so catch it as `ImportError`.

    Example:
        >>> try:
        ...     import parl_tf
        ... except ImportError as error:
        ...     print(error)  # set KERAS_BACKEND=tensorflow
    """
