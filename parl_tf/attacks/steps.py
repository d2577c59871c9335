"""CleverHans's step along a gradient, of which nothing stays in memory."""

import types

from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method as _original

# CleverHans takes gradients in one `tf.function` for all models, which keeps a graph for each of
# them as long as the process lives. In a graph of ours the plain Python function does.
fast_gradient_method = types.FunctionType(
    _original.__code__,
    {
        **_original.__globals__,
        "compute_gradient": _original.__globals__["compute_gradient"].python_function,
    },
    _original.__name__,
    _original.__defaults__,
)
"""`cleverhans.tf2.attacks.fast_gradient_method`, its steps and arguments."""
