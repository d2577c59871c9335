"""Linear centred kernel alignment (CKA): the similarity of two representations of images."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from parl_tf.arguments import check_at_least
from parl_tf.data.examples import check_images
from parl_tf.defences.base import Ensemble
from parl_tf.errors import InputError
from parl_tf.graphs.exposure import count_convolutions, layer_outputs
from parl_tf.graphs.flattening import graph_part

# A representation that varies by less than 1e-6 of its size, about float32's precision, counts as
# constant. Gram matrices hold squares.
_CONSTANT = 1e-12


@dataclasses.dataclass(frozen=True)
class LayerCKA:
    """CKA of members' representations at each layer.

    Attributes:
        biased: float64 array (layers, pairs), in [0, 1] up to rounding. NaN where a member's layer
            has the same output for every image.
        unbiased: float64 array (layers, pairs), in [-1, 1] up to rounding. NaN likewise.
        pairs: The members of each pair: (0, 1), (0, 2), ..., (M - 2, M - 1).
    """

    biased: np.ndarray
    unbiased: np.ndarray
    pairs: list[tuple[int, int]]


def gram_cka(first: Any, second: Any, *, unbiased: bool = False) -> float:
    """Centred kernel alignment of two Gram matrices, computed in float64.

    The biased value is the cosine of the two centred matrices. It grows with the number of
    features: for independent Gaussians it is features / (features + n). The unbiased value
    computes each of its three HSIC by Song's estimator, whose expectation does not depend on the
    number of features.

    Up to a factor that cancels, that estimator is the inner product of the two matrices centred
    without their diagonals. So the HSIC of a matrix with itself is never negative, and the
    unbiased value is a cosine too.

    Args:
        first: Symmetric matrix (n, n): inner products of one representation of n examples.
        second: Those of another representation of the same examples.
        unbiased: Whether to estimate without bias.

    Returns:
        The alignment, dimensionless: in [0, 1] if biased (for positive semidefinite matrices), in
        [-1, 1] if unbiased, up to rounding. NaN if a representation is constant, or varies by
        less than about 1e-6 of its size; if unbiased, also if all its examples are equidistant.

    Raises:
        InputError: Matrices that are not square or differ in size, values that are not finite, or
            fewer than two examples (four if unbiased).

    Source: Kornblith et al. 2019, arXiv 1905.00414; Song et al. 2012, JMLR 13 (the estimator
    HSIC_1); Székely and Rizzo 2014, arXiv 1310.2926 (its form as an inner product).
    """
    grams = [np.asarray(gram, "float64") for gram in (first, second)]
    shapes = [gram.shape for gram in grams]
    if len(shapes[0]) != 2 or shapes[0] != shapes[0][::-1] or shapes[0] != shapes[1]:
        raise InputError(f"Expected two Gram matrices (n, n) of one size. Received: {shapes}.")
    _check_count(shapes[0][0], unbiased)
    return _inner_product(*(_unit(gram, unbiased) for gram in grams))


def linear_cka(x: Any, y: Any, *, unbiased: bool = False) -> float:
    """Centred kernel alignment of two representations with a linear kernel.

    It is invariant to rotations and isotropic scaling of either representation. The two may have
    different numbers of features.

    Args:
        x: Array (n, ...), a representation of n examples, flattened per example.
        y: Array (n, ...), another representation of the same examples.
        unbiased: Whether to estimate without bias.

    Returns:
        The alignment of their Gram matrices, dimensionless: in [0, 1] if biased, in [-1, 1] if
        unbiased, up to rounding. NaN if a representation is constant.

    Raises:
        InputError: Arrays that are not (n, ...) with the same n, have no features, or have values
            that are not finite; fewer than two examples (four if unbiased).

    Example:
        >>> x = np.random.default_rng(0).normal(size=(100, 5))
        >>> round(parl_tf.linear_cka(x, -2 * x), 6)
        1.0
        >>> y = np.random.default_rng(1).normal(size=(100, 5000))
        >>> biased, unbiased = (parl_tf.linear_cka(x, y, unbiased=u) for u in (False, True))
        >>> biased > 0.2 and abs(unbiased) < 0.1  # x and y are independent
        True

    Source: Kornblith et al. 2019, arXiv 1905.00414.
    """
    arrays = [np.asarray(array, "float64") for array in (x, y)]
    shapes = [array.shape for array in arrays]
    if any(array.ndim < 2 or not array.size for array in arrays) or shapes[0][0] != shapes[1][0]:
        raise InputError(f"Expected arrays (n, ...) of the same n examples. Received: {shapes}.")
    flat = [array.reshape(len(array), -1) for array in arrays]
    return gram_cka(*(matrix @ matrix.T for matrix in flat), unbiased=unbiased)


def layer_cka(
    ensemble: Ensemble,
    images: Any,
    *,
    tap: str = "activation",
    num_layers: int | None = None,
    batch_size: int = 250,
) -> LayerCKA:
    """CKA of every pair of members at each of their first convolutions, in inference mode.

    Layers are compared by position: the first with the first. Memory holds the outputs of one
    member for two batches, and a float64 Gram matrix (n, n) for each member and layer. Each member
    is evaluated (batches + 1) / 2 times on all images.

    Args:
        ensemble: Members to compare; they may be different networks.
        images: Array (n, height, width, channels), n >= 4, pixels in [0, 1].
        tap: What counts as a convolution's output, as for `expose_layers`.
        num_layers: Number of convolutions on the main path; None for the most that every member
            has.
        batch_size: Images per batch. It changes results by no more than rounding.

    Returns:
        Biased and unbiased CKA for each layer and pair.

    Raises:
        InputError: A model that is not an `Ensemble`; images that are not as described; what
            `expose_layers` refuses; an output that is not finite.

    Source: Kornblith et al. 2019, arXiv 1905.00414.
    """
    images = _check_arguments(ensemble, images, batch_size)
    if num_layers is None:
        num_layers = min(count_convolutions(member) for member in ensemble.members)
    outputs_of = [layer_outputs(member, num_layers, tap=tap) for member in ensemble.members]
    grams_of = [
        _gram_matrices(_features(member, outputs), images, batch_size)
        for member, outputs in zip(ensemble.members, outputs_of, strict=True)
    ]
    pairs = list(itertools.combinations(range(len(grams_of)), 2))
    biased, unbiased = (
        np.array([_pairwise(grams, pairs, which) for grams in zip(*grams_of, strict=True)])
        for which in (False, True)
    )
    return LayerCKA(biased, unbiased, pairs)


def _check_arguments(ensemble: Ensemble, images: Any, batch_size: int) -> np.ndarray:
    """Validates the arguments of `layer_cka` and returns the images."""
    if not isinstance(ensemble, Ensemble):
        raise InputError(f"Expected an Ensemble to measure. Received: {ensemble!r}.")
    images = check_images(images)
    if images.shape[1:] != ensemble.image_shape:
        raise InputError(
            f"Expected images of shape {ensemble.image_shape}, as the members take them. "
            f"Received: {images.shape[1:]}."
        )
    _check_count(len(images), unbiased=True)
    check_at_least("batch_size", batch_size, 1)
    return images


def _check_count(count: int, unbiased: bool) -> None:
    """Raises InputError if there are too few examples."""
    least = 4 if unbiased else 2
    if count < least:
        raise InputError(f"Expected at least {least} examples. Received: {count}.")


def _features(
    member: keras.Model, outputs: list[keras.KerasTensor]
) -> Callable[[np.ndarray], list[tf.Tensor]]:
    """A graph from images to the outputs of a member's layers, each (batch, features)."""
    model = graph_part(member.inputs, outputs)

    def features(images: tf.Tensor) -> list[tf.Tensor]:
        flat = keras.tree.flatten(model(images, training=False))
        return [tf.reshape(output, (tf.shape(output)[0], -1)) for output in flat]

    batch = tf.TensorSpec((None, *member.input_shape[1:]), tf.float32)
    return tf.function(features, input_signature=[batch])


def _gram_matrices(
    features: Callable[[np.ndarray], list[tf.Tensor]], images: np.ndarray, batch_size: int
) -> list[np.ndarray]:
    """Gram matrices (n, n) in float64, one per layer, filled block by block."""
    count = len(images)
    batches = [slice(begin, begin + batch_size) for begin in range(0, count, batch_size)]
    grams: list[np.ndarray] = []
    for index, rows in enumerate(batches):
        left = features(images[rows])
        if not grams:
            grams = [np.empty((count, count)) for _ in left]
        for columns in batches[index:]:
            # Not assigned to a variable, which would keep a third batch alive.
            blocks = _products(left, left if columns == rows else features(images[columns]))
            for gram, block in zip(grams, blocks, strict=True):
                gram[rows, columns] = block
                gram[columns, rows] = block.T
    return grams


def _products(left: list[tf.Tensor], right: list[tf.Tensor]) -> list[np.ndarray]:
    """Inner products of two batches' examples in float64, layer by layer."""
    return [
        tf.matmul(tf.cast(x, tf.float64), tf.cast(y, tf.float64), transpose_b=True).numpy()
        for x, y in zip(left, right, strict=True)
    ]


def _pairwise(
    grams: Sequence[np.ndarray], pairs: Sequence[tuple[int, int]], unbiased: bool
) -> list[float]:
    """CKA of every pair of members at one layer."""
    units = [_unit(gram, unbiased) for gram in grams]
    return [_inner_product(units[i], units[j]) for i, j in pairs]


def _unit(gram: np.ndarray, unbiased: bool) -> np.ndarray:
    """A Gram matrix centred and scaled to norm 1; NaN for a constant representation."""
    if not np.isfinite(gram).all():
        raise InputError("Expected finite representations. Received: NaN or infinite values.")
    centred = _centred_without_diagonal(gram) if unbiased else _centred(gram)
    norm = np.linalg.norm(centred)
    if norm <= _CONSTANT * np.linalg.norm(gram):
        return np.full_like(gram, np.nan)
    return centred / norm


def _inner_product(first: np.ndarray, second: np.ndarray) -> float:
    """Sum of the entrywise products of two matrices."""
    return float(np.vdot(first, second))


def _centred(gram: np.ndarray) -> np.ndarray:
    """The Gram matrix of the representation minus its mean."""
    means = gram.mean(axis=1)
    return gram - means[:, np.newaxis] - means + means.mean()


def _centred_without_diagonal(gram: np.ndarray) -> np.ndarray:
    """A Gram matrix with a zero diagonal, centred so that every row sums to zero."""
    count = len(gram)
    beside = gram - np.diag(np.diag(gram))
    sums = beside.sum(axis=1) / (count - 2)
    centred = beside - sums[:, np.newaxis] - sums + sums.sum() / (count - 1)
    np.fill_diagonal(centred, 0.0)
    return centred
