"""Rebuilds layers from their configurations in another precision."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras


def rebuilt(operation: Any, dtype: str | None) -> Any:
    """A new layer of the same configuration, in another type if one is given."""
    if not isinstance(operation, keras.Layer):
        return operation  # stateless, and computes in the type of its inputs
    dtype = dtype or operation.dtype_policy
    if type(operation) is keras.layers.Lambda:
        return keras.layers.Lambda(operation.function, arguments=operation.arguments, dtype=dtype)
    config = operation.get_config()
    return type(operation).from_config(
        _retyped(config, dtype) if isinstance(dtype, str) else config
    )


@contextlib.contextmanager
def default_policy(dtype: str | None) -> Iterator[None]:
    """Makes a type, if given, the default of layers made in the context."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype or policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


def _retyped(config: Any, dtype: str) -> Any:
    """A configuration with every floating-point type in it replaced."""
    if isinstance(config, list | tuple):
        return type(config)(_retyped(each, dtype) for each in config)
    if not isinstance(config, dict):
        return config
    return {
        key: dtype
        if key == "dtype" and (isinstance(value, dict) or "float" in str(value))
        else _retyped(value, dtype)
        for key, value in config.items()
    }
