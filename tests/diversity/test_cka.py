"""Alignment against slow computations of its definitions, and against its known properties."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness.networks import examples, plain_network, residual_network

import parl_tf
from parl_tf.diversity.cka import gram_cka, layer_cka, linear_cka
from parl_tf.errors import InputError
from parl_tf.graphs.exposure import count_convolutions, expose_layers

BOTH = pytest.mark.parametrize("unbiased", [False, True])


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def related(count=9):
    """Two representations that share a part, each with a mean."""
    x = gaussian(count, 7, seed=1) + 3
    y = np.tanh(x[:, :5]) + 0.7 * gaussian(count, 5, seed=2) - 1
    return x, y


def hsic_by_quadruples(first, second):
    """Song's estimator as the U-statistic that it is: a mean over distinct quadruples."""
    terms = [
        first[i, j] * (second[i, j] + second[q, r] - 2 * second[i, q])
        for i, j, q, r in itertools.permutations(range(len(first)), 4)
    ]
    return np.mean(terms)


def hsic_by_traces(first, second):
    """Song's estimator in closed form."""
    n, one = len(first), np.ones(len(first))
    first, second = (gram * (1 - np.eye(n)) for gram in (first, second))
    sums = (one @ first @ one) * (one @ second @ one) / ((n - 1) * (n - 2))
    cross = 2 / (n - 2) * (one @ first @ second @ one)
    return (np.trace(first @ second) + sums - cross) / (n * (n - 3))


def cka_by(hsic, first, second):
    return hsic(first, second) / np.sqrt(hsic(first, first) * hsic(second, second))


def cka_by_features(x, y):
    """Biased alignment without Gram matrices, from features."""
    x, y = (
        np.asarray(array, "float64").reshape(len(array), -1) - np.mean(array, axis=0).ravel()
        for array in (x, y)
    )
    norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return np.linalg.norm(y.T @ x) ** 2 / norms


def layers_of(member, num_layers, images, tap="activation"):
    """Whole outputs of a member's first convolutions, in float64."""
    outputs = expose_layers(member, num_layers, tap=tap)(images, training=False)[1:]
    return [np.asarray(output, "float64").reshape(len(images), -1) for output in outputs]


def test_biased_equals_its_form_in_features():
    x, y = related()
    expected = cka_by_features(x, y)
    assert 0.1 < expected < 0.95
    assert linear_cka(x, y) == pytest.approx(expected, abs=1e-12)
    assert gram_cka(x @ x.T, y @ y.T) == pytest.approx(expected, abs=1e-12)


def test_biased_equals_explicit_loops():
    x, y = related(5)
    centred = [array - array.mean(axis=0) for array in (x, y)]
    sums = dict.fromkeys([(0, 0), (0, 1), (1, 1)], 0.0)
    for (a, b), i, j in itertools.product(sums, range(5), range(5)):
        product = 1.0
        for array in (centred[a], centred[b]):
            product *= sum(p * q for p, q in zip(array[i], array[j], strict=True))
        sums[a, b] += product
    expected = sums[0, 1] / np.sqrt(sums[0, 0] * sums[1, 1])
    assert linear_cka(x, y) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("count", [4, 6])
def test_unbiased_equals_a_sum_over_quadruples(count):
    x, y = related(count)
    first, second = x @ x.T, y @ y.T
    expected = cka_by(hsic_by_quadruples, first, second)
    assert gram_cka(first, second, unbiased=True) == pytest.approx(expected, abs=1e-10)
    assert linear_cka(x, y, unbiased=True) == pytest.approx(expected, abs=1e-10)


def test_unbiased_equals_the_closed_form():
    x, y = related(40)
    expected = cka_by(hsic_by_traces, x @ x.T, y @ y.T)
    assert linear_cka(x, y, unbiased=True) == pytest.approx(expected, abs=1e-10)


@BOTH
def test_neither_rotation_nor_scale_nor_shift_matter(unbiased):
    x, y = related(12)
    rotation = np.linalg.qr(gaussian(7, 7, seed=3))[0]
    assert linear_cka(x, x, unbiased=unbiased) == pytest.approx(1, abs=1e-12)
    moved = -0.01 * (x @ rotation) + 5
    assert linear_cka(x, moved, unbiased=unbiased) == pytest.approx(1, abs=1e-6)
    same = linear_cka(x, y, unbiased=unbiased)
    assert linear_cka(100 * x @ rotation, y, unbiased=unbiased) == pytest.approx(same, abs=1e-9)
    assert linear_cka(y, x, unbiased=unbiased) == pytest.approx(same, abs=1e-12)
    stretched = x * np.array([10, 1, 1, 1, 1, 1, 1])
    assert linear_cka(x, stretched, unbiased=unbiased) < 0.95


@pytest.mark.parametrize(("count", "features"), [(100, 2_000), (1_000, 16_384)])
def test_independent_gaussians_look_alike_only_if_biased(count, features):
    # E<K, L> = p^2 d and E||K||^2 = p d (p + d + 1), for Wishart matrices of size d = n - 1 with p
    # degrees of freedom: p / (p + n). By evaluation.md's case 0.94 and 0.0.
    first, second = (x @ x.T for x in (gaussian(count, features, seed=s) for s in (4, 5)))
    assert gram_cka(first, second) == pytest.approx(features / (features + count), abs=2e-3)
    # The deviation of a cosine between random directions, of which there are n (n - 3) / 2.
    assert abs(gram_cka(first, second, unbiased=True)) < 4 / np.sqrt(count * (count - 3) / 2)


@BOTH
def test_a_constant_representation_has_no_alignment(unbiased):
    x, _ = related(8)
    constant = np.full((8, 300), 0.1) + gaussian(300)
    nearly = constant * (1 + 1e-8 * gaussian(8, 300))
    for other in (constant, nearly, np.zeros((8, 2))):
        assert np.isnan(linear_cka(x, other, unbiased=unbiased))
        assert np.isnan(linear_cka(other, x, unbiased=unbiased))
    assert linear_cka(x, x + 1e4, unbiased=unbiased) == pytest.approx(1, abs=1e-6)


def test_examples_as_far_from_each_other_have_no_unbiased_alignment():
    x, _ = related(6)
    assert np.isnan(gram_cka(np.eye(6), x @ x.T, unbiased=True))
    assert 0 < gram_cka(np.eye(6), x @ x.T) < 1


def test_representations_of_any_shape_and_type():
    x, y = related(6)
    maps = gaussian(6, 2, 3, 4, seed=6).astype("float32")
    flat = maps.reshape(6, 24)
    assert linear_cka(maps, y) == linear_cka(flat, y)
    whole = np.arange(24).reshape(6, 4) % 5
    assert linear_cka(whole, x) == pytest.approx(cka_by_features(whole, x), abs=1e-12)


@pytest.mark.parametrize("tap", ["activation", "convolution"])
def test_layer_cka_equals_a_computation_from_whole_features(tap):
    ensemble = parl_tf.Ensemble([residual_network(seed, filters=3 + seed) for seed in range(3)])
    images, _ = examples(11)
    found = layer_cka(ensemble, images, tap=tap, batch_size=4)
    assert found.pairs == [(0, 1), (0, 2), (1, 2)]
    assert found.biased.shape == found.unbiased.shape == (3, 3)
    assert found.biased.dtype == found.unbiased.dtype == "float64"
    features = [layers_of(member, 3, images, tap) for member in ensemble.members]
    for layer, (column, (i, j)) in itertools.product(range(3), enumerate(found.pairs)):
        x, y = features[i][layer], features[j][layer]
        assert found.biased[layer, column] == pytest.approx(cka_by_features(x, y), abs=1e-5)
        expected = cka_by(hsic_by_traces, x @ x.T, y @ y.T)
        assert found.unbiased[layer, column] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 9, 250])
def test_results_do_not_depend_on_the_batch_size(batch_size):
    ensemble = parl_tf.Ensemble([residual_network(0), residual_network(1)])
    images, _ = examples(9)
    expected = layer_cka(ensemble, images, batch_size=3)
    found = layer_cka(ensemble, images, batch_size=batch_size)
    np.testing.assert_allclose(found.biased, expected.biased, atol=1e-6)
    np.testing.assert_allclose(found.unbiased, expected.unbiased, atol=1e-5)


def test_members_of_equal_weights_are_one():
    network = residual_network(0)
    copy = keras.models.clone_model(network)
    copy.set_weights(network.get_weights())
    found = layer_cka(parl_tf.Ensemble([network, copy]), examples(8)[0])
    np.testing.assert_allclose(found.biased, np.ones((3, 1)), atol=1e-12)
    np.testing.assert_allclose(found.unbiased, np.ones((3, 1)), atol=1e-12)


def test_different_networks_are_compared_where_all_have_layers():
    residual, plain = residual_network(0), plain_network(1)
    assert (count_convolutions(residual), count_convolutions(plain)) == (3, 2)
    ensemble = parl_tf.Ensemble([residual, plain])
    images, _ = examples(7)
    found = layer_cka(ensemble, images)
    assert found.biased.shape == (2, 1)
    expected = [
        cka_by_features(x, y)
        for x, y in zip(layers_of(residual, 2, images), layers_of(plain, 2, images), strict=True)
    ]
    np.testing.assert_allclose(found.biased[:, 0], expected, atol=1e-5)
    first = layer_cka(ensemble, images, num_layers=1)
    np.testing.assert_allclose(first.biased, found.biased[:1], atol=1e-6)


def test_a_dead_layer_is_nan_and_no_other():
    network = residual_network(0)
    network.get_layer("first").set_weights([np.zeros((3, 3, 4, 4)), np.zeros(4)])
    found = layer_cka(parl_tf.Ensemble([network, residual_network(1)]), examples(6)[0])
    assert np.isnan(found.biased[:, 0]).tolist() == [False, True, False]
    assert np.isnan(found.unbiased[:, 0]).tolist() == [False, True, False]


def test_resnet20_has_19_layers_each_traced_once(monkeypatch):
    members = [parl_tf.resnet20(10, seed=seed) for seed in range(2)]
    assert count_convolutions(members[0]) == 19
    traces = []

    def recorded(function=None, *arguments, make=tf.function, **options):
        def traced(*inputs):
            traces.append(function.__name__)
            return function(*inputs)

        if function is None or function.__name__ != "features":
            return make(function, *arguments, **options)
        return make(traced, *arguments, **options)

    monkeypatch.setattr(tf, "function", recorded)
    images = np.random.default_rng(0).uniform(size=(5, 32, 32, 3)).astype("float32")
    found = layer_cka(parl_tf.Ensemble(members), images, batch_size=3)
    assert traces == ["features"] * 2
    assert found.biased.shape == (19, 1)
    assert np.all((found.biased > 0) & (found.biased < 1))


@pytest.mark.parametrize(
    ("first", "second", "unbiased", "message"),
    [
        (np.eye(5), np.eye(4), False, "of one size.*Received: .(5, 5), (4, 4)"),
        (np.ones((5, 3)), np.ones((5, 3)), False, "Gram matrices (n, n)"),
        (np.ones(5), np.ones(5), False, "Gram matrices (n, n)"),
        (np.ones((1, 1)), np.ones((1, 1)), False, "at least 2 examples. Received: 1"),
        (np.eye(3), np.eye(3), True, "at least 4 examples. Received: 3"),
        (np.full((5, 5), np.nan), np.eye(5), False, "Expected finite"),
        (np.eye(5), np.full((5, 5), np.inf), True, "Expected finite"),
    ],
)
def test_refuses_what_are_no_gram_matrices(first, second, unbiased, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(").replace(")", r"\)")):
        gram_cka(first, second, unbiased=unbiased)


@pytest.mark.parametrize("shapes", [((5, 3), (4, 3)), ((5,), (5, 3)), ((5, 0), (5, 3))])
def test_refuses_what_are_no_representations(shapes):
    with pytest.raises(InputError, match=r"arrays \(n, \.\.\.\) of the same n"):
        linear_cka(*(np.ones(shape) for shape in shapes))


def test_refuses_what_cannot_be_measured():
    members = [residual_network(0), plain_network(1)]
    ensemble = parl_tf.Ensemble(members)
    images, _ = examples(6)
    with pytest.raises(InputError, match="Expected an Ensemble"):
        layer_cka(members[0], images)
    with pytest.raises(InputError, match="at least 4 examples. Received: 3"):
        layer_cka(ensemble, images[:3])
    with pytest.raises(InputError, match=r"shape \(8, 8, 3\).*Received: \(7, 8, 3\)"):
        layer_cka(ensemble, images[:, 1:])
    with pytest.raises(InputError, match="Expected pixels in"):
        layer_cka(ensemble, images * 255)
    with pytest.raises(InputError, match="batch_size of at least 1. Received: 0"):
        layer_cka(ensemble, images, batch_size=0)
    with pytest.raises(InputError, match="num_layers from 1 to 2.*Received: 3"):
        layer_cka(ensemble, images, num_layers=3)
    with pytest.raises(InputError, match="applies its activation itself"):
        layer_cka(ensemble, images, tap="convolution")
    members[0].get_layer("stem").bias.assign(np.full(4, np.nan))
    with pytest.raises(InputError, match="Expected finite representations"):
        layer_cka(ensemble, images)
