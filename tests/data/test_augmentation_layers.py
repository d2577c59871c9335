"""What each layer does to an image, and what is done with layers and functions of other kinds."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from parl_tf.data.augmentation import AUGMENTATIONS
from parl_tf.data.augmentation.pipeline import Augmentation
from parl_tf.data.batches import training_batches
from parl_tf.data.examples import Split
from parl_tf.errors import InputError

SHAPE = (9, 14, 2)
FIRST_EPOCH = tf.constant([0, 1])  # of seed 0
IMAGES = np.random.default_rng(0).random((12, *SHAPE), "float32")


def augmented(layers, images=IMAGES, **options):
    """One epoch, in the order of the images."""
    batches = training_batches(
        Split(images, np.arange(len(images))), batch_size=4, seed=0, augmentation=layers, **options
    )
    found, labels = zip(*batches.as_numpy_iterator(), strict=True)
    return np.concatenate(found)[np.argsort(np.concatenate(labels))]


# Factors that leave nothing to chance: the layer's own result is the only one possible.
CERTAIN = {
    "rotation": keras.layers.RandomRotation((0.1, 0.1)),
    "rotation backwards": keras.layers.RandomRotation((-0.3, -0.3), "constant", "nearest"),
    "zoom": keras.layers.RandomZoom((0.3, 0.3), (-0.4, -0.4)),
    "zoom of both": keras.layers.RandomZoom((-0.2, -0.2), fill_mode="wrap"),
    "bilinear translation": keras.layers.RandomTranslation((0.21, 0.21), (-0.37, -0.37)),
    "whole translation": keras.layers.RandomTranslation(
        (2 / 9, 2 / 9), (-5 / 14, -5 / 14), "constant", "nearest", fill_value=0.5
    ),
}


@pytest.mark.parametrize("layer", CERTAIN.values(), ids=CERTAIN)
def test_a_certain_layer_does_what_keras_does(layer):
    expected = keras.ops.convert_to_numpy(layer(IMAGES, training=True))
    assert np.abs(expected - IMAGES).max() > 0.1
    np.testing.assert_allclose(augmented([layer]), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("mode", "axes"), [("horizontal", 1), ("vertical", 0), ("horizontal_and_vertical", (0, 1))]
)
def test_a_flip_is_that_of_its_mode(mode, axes):
    found = augmented([keras.layers.RandomFlip(mode)])
    flipped = [np.array_equal(f, np.flip(i, axes)) for f, i in zip(found, IMAGES, strict=True)]
    same = [np.array_equal(f, i) for f, i in zip(found, IMAGES, strict=True)]
    assert np.logical_xor(flipped, same).all()
    assert any(flipped)
    assert any(same)


def drawn(layer, shape, count=4000, seed=(5, 6)):
    """What is drawn for many images."""
    (found,) = Augmentation([layer], shape).draw(tf.constant(count), [tf.constant(seed)])
    return {name: values.numpy() for name, values in found.items()}


@pytest.mark.parametrize(
    ("factors", "shape", "rows", "columns"),
    [
        ((0.1, 0.1), (32, 32, 3), range(-3, 4), range(-3, 4)),
        ((4 / 48, 4 / 40), (48, 40, 3), range(-4, 5), range(-4, 5)),
        (((0.05, 0.11), (-0.5, 0.0)), (40, 6, 1), range(2, 5), range(-3, 1)),
        (((0.2, -0.1), 0.0), (10, 10, 1), range(-1, 3), range(1)),
    ],
)
def test_every_whole_shift_within_the_factors_is_as_frequent(factors, shape, rows, columns):
    layer = keras.layers.RandomTranslation(*factors, interpolation="nearest")
    right, down = drawn(layer, shape)["translations"].T
    found, counts = np.unique(np.stack([down, right]), axis=1, return_counts=True)
    assert found.T.tolist() == [[row, column] for row in rows for column in columns]
    expected = 4000 / (len(rows) * len(columns))
    assert np.abs(counts - expected).max() < 5 * math.sqrt(expected)


@pytest.mark.parametrize("size", [1, 3, 28, 32, 48, 49])
def test_a_whole_number_of_pixels_is_not_lost_to_rounding(size):
    for pixels in range(size + 1):
        (layer,) = AUGMENTATIONS[f"black-crops-{pixels}"]((size, size, 1), mirror=False)
        assert np.abs(drawn(layer, (size, size, 1), 3000)["translations"]).max() == pixels


@pytest.mark.parametrize(
    ("layer", "name", "low", "high"),
    [
        (keras.layers.RandomTranslation((0.1, 0.3), 0.2), "translations", (-4, 1), (4, 3)),
        (keras.layers.RandomZoom((-0.3, 0.1), 0.2), "height_zoom", 0.7, 1.1),
        (keras.layers.RandomZoom((-0.3, 0.1), 0.2), "width_zoom", 0.8, 1.2),
        (keras.layers.RandomZoom(0.5), "width_zoom", 0.5, 1.5),
    ],
)
def test_fractions_fill_the_range_of_the_factors(layer, name, low, high):
    found = drawn(layer, (10, 20, 3))[name]
    low, high = np.broadcast_to(low, found.shape), np.broadcast_to(high, found.shape)
    assert (found >= low - 1e-6).all()
    assert (found <= high + 1e-6).all()
    share = (found - low) / (high - low)
    np.testing.assert_allclose(share.mean(axis=0), 0.5, atol=0.02)
    np.testing.assert_allclose(share.std(axis=0), 1 / math.sqrt(12), atol=0.01)
    if found.shape[1] == 2:
        assert abs(np.corrcoef(found.T)[0, 1]) < 0.06


def test_height_and_width_are_zoomed_alike_without_a_width_factor_and_apart_with_one():
    alike, apart = (drawn(keras.layers.RandomZoom(0.2, width), SHAPE) for width in (None, 0.2))
    np.testing.assert_array_equal(alike["height_zoom"], alike["width_zoom"])
    correlation = np.corrcoef(apart["height_zoom"][:, 0], apart["width_zoom"][:, 0])[0, 1]
    assert abs(correlation) < 0.06


def test_angles_fill_the_range_of_the_factor():
    matrix = drawn(keras.layers.RandomRotation((-0.1, 0.2)), SHAPE)["rotation_matrix"]
    turns = np.arctan2(matrix[:, 3], matrix[:, 0]) / (2 * np.pi)
    assert turns.min() == pytest.approx(-0.1, abs=0.001)
    assert turns.max() == pytest.approx(0.2, abs=0.001)
    assert turns.mean() == pytest.approx(0.05, abs=0.005)


def test_an_image_gets_what_the_layer_does_with_its_draw_alone():
    """Zoom and rotation of each image by itself, from the draws of the whole epoch."""
    layers = [keras.layers.RandomZoom(0.4, 0.3), keras.layers.RandomRotation(0.2)]
    found = augmented(layers)
    _, *seeds = tf.unstack(tf.random.experimental.stateless_split(FIRST_EPOCH, 3))
    draws = Augmentation(layers, SHAPE).draw(tf.constant(len(IMAGES)), seeds)
    for index, image in enumerate(IMAGES):
        for layer, all_drawn in zip(layers, draws, strict=True):
            own = {name: values[index : index + 1] for name, values in all_drawn.items()}
            image = keras.ops.convert_to_numpy(layer.transform_images(image[None], own))[0]
        np.testing.assert_allclose(found[index], image, rtol=0, atol=2e-6)


def bilinear(image, down, right):
    """An image moved by fractions of a pixel over its edge, in float64."""
    for axis, shift in ((0, down), (1, right)):
        at = np.arange(image.shape[axis]) - float(shift)
        low = np.floor(at).astype(int)
        share = (at - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        first, second = (np.clip(low + k, 0, image.shape[axis] - 1) for k in (0, 1))
        image = (1 - share) * image.take(first, axis) + share * image.take(second, axis)
    return image


def test_bilinear_shifts_against_an_interpolation_of_rows_and_columns():
    images = np.random.default_rng(1).random((32, 32, 24, 3), "float32")
    layers = AUGMENTATIONS["bilinear-shifts"](images.shape[1:], mirror=False)
    _, seed, _ = tf.unstack(tf.random.experimental.stateless_split(FIRST_EPOCH, 3))
    fractions = 0.2 * tf.random.stateless_uniform((32, 2), seed).numpy() - 0.1
    expected = [
        bilinear(image, 32 * down, 24 * right)
        for image, (down, right) in zip(images, fractions, strict=True)
    ]
    np.testing.assert_allclose(augmented(layers, images), expected, rtol=0, atol=1e-5)


def test_a_third_layer_and_noise_have_draws_of_their_own():
    """Of five flips and the noise no two choose the same images."""
    dark = np.full((64, 1, 2, 1), 0.5, "float32")
    dark[:, :, 0] = 0.25
    chosen = []
    for place in range(5):
        layers = [lambda images: images] * place + [keras.layers.RandomFlip("horizontal")]
        chosen.append(augmented(layers, dark)[:, 0, 0, 0] == 0.5)
    chosen.append((augmented((), dark, noise_stddev=0.1) != dark).any(axis=(1, 2, 3)))
    assert len({tuple(each) for each in chosen}) == 6
    assert all(0.25 < each.mean() < 0.75 for each in chosen)


@pytest.fixture
def mixed_policy():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


def own_layers(**options):
    return [
        keras.layers.RandomTranslation(0.2, 0.2, **options),
        keras.layers.RandomFlip(**options),
        keras.layers.RandomZoom(0.2, **options),
        keras.layers.RandomRotation(0.2, **options),
    ]


def test_pixels_are_float32_whatever_the_policy_and_the_format(mixed_policy):
    for layers in (None, own_layers(), own_layers(data_format="channels_first")):
        found = augmented(layers)
        assert found.dtype == np.float32
        keras.config.set_dtype_policy("float32")
        expected = augmented(None if layers is None else own_layers())
        keras.config.set_dtype_policy("mixed_float16")
        np.testing.assert_array_equal(found, expected)
        assert np.abs(found - found.astype("float16")).max() > 0


def test_the_layers_themselves_are_left_as_they_are():
    layers = own_layers(seed=3, dtype="float16")
    before = [
        (layer.get_config(), [v.numpy().tolist() for v in layer.variables]) for layer in layers
    ]
    augmented(layers)
    after = [
        (layer.get_config(), [v.numpy().tolist() for v in layer.variables]) for layer in layers
    ]
    assert before == after


class Inverted(keras.layers.RandomFlip):
    """Says of itself that it flips."""

    def transform_images(self, images, transformation, training=True):
        return 1 - images


FOREIGN = {
    "a function": lambda images: 1 - images,
    "a function in another type": lambda images: tf.cast(1 - images, tf.float64),
    "a layer without training": keras.layers.Rescaling(-1.0, offset=1.0),
    "a subclass of a known layer": Inverted("horizontal"),
    "layers in a model": keras.Sequential([keras.layers.Rescaling(-1.0, offset=1.0)]),
    "a layer of weights": keras.layers.Conv2D(
        2,
        1,
        kernel_initializer=lambda shape, dtype: -tf.reshape(tf.eye(2, dtype=dtype), shape),
        bias_initializer="ones",
    ),
}


@pytest.mark.parametrize("layer", FOREIGN.values(), ids=FOREIGN)
def test_other_layers_and_functions_are_applied_as_they_are(layer):
    np.testing.assert_allclose(augmented([layer]), 1 - IMAGES, rtol=0, atol=1e-6)
    np.testing.assert_allclose(augmented(layer), 1 - IMAGES, rtol=0, atol=1e-6)  # one alone


def test_other_layers_are_applied_as_in_training_in_the_order_given():
    found = augmented([lambda images: images / 2, keras.layers.GaussianNoise(0.01, seed=1)])
    noise = found - IMAGES / 2
    assert noise.std() == pytest.approx(0.01, rel=0.1)
    layers = [lambda images: images**2, keras.layers.RandomRotation((0.1, 0.1))]
    expected = keras.ops.convert_to_numpy(layers[1](IMAGES**2, training=True))
    np.testing.assert_allclose(augmented(layers), expected, rtol=0, atol=2e-5)


def test_random_crop_takes_one_window_for_a_batch_and_others_have_their_own():
    """What the docstring says is lost."""
    layers = [keras.layers.ZeroPadding2D(2), keras.layers.RandomCrop(*SHAPE[:2], seed=1)]
    dot = np.zeros((8, *SHAPE), "float32")
    dot[:, 4, 7] = 1
    batches = training_batches(
        Split(dot, np.arange(8)), batch_size=8, seed=0, augmentation=layers
    ).repeat(6)
    for images, _ in batches.as_numpy_iterator():
        assert (images == images[:1]).all()
    assert len({images.tobytes() for images, _ in batches.as_numpy_iterator()}) > 1


def test_a_shift_is_of_the_images_that_reach_it():
    """Padded by 6 pixels, 8 rows are 20: a tenth is 2, and in the middle nothing is lost."""
    images = np.random.default_rng(0).random((32, 8, 8, 1), "float32")
    found = augmented(
        [
            keras.layers.ZeroPadding2D(6),
            keras.layers.RandomTranslation(0.1, 0.1, interpolation="nearest"),
            keras.layers.Cropping2D(6),
        ],
        images,
    )
    shifts = set()
    for image, moved in zip(images, found, strict=True):
        padded = np.pad(image, [(2, 2), (2, 2), (0, 0)])
        for down in range(-2, 3):
            for right in range(-2, 3):
                window = padded[2 - down : 10 - down, 2 - right : 10 - right]
                if np.array_equal(window, moved):
                    shifts.add((down, right))
    assert len(shifts) > 10
    assert {abs(down) for down, _ in shifts} == {0, 1, 2}


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("shifts", r"Received: 'shifts'.*AUGMENTATIONS\['shifts'\]\(image_shape"),
        (["shifts"], "Expected Keras layers as augmentation. Received: 'shifts'"),
        (4, "Expected Keras layers or functions of images as augmentation. Received: 4"),
        ([None], "layers or functions of images as augmentation. Received: None"),
        (keras.layers.RandomFlip, "functions of images as augmentation. Received: <class"),
        (
            [keras.layers.RandomCrop(5, 14)],
            r"keeps the shape of a batch, \(2, 9, 14, 2\). Received: one that .*\(2, 5, 14, 2\)",
        ),
        ([keras.layers.Flatten(), keras.layers.RandomFlip()], r"Received: .*\(2, 252\)"),
        ([tf.reduce_mean], r"Received: one that returns \(\)"),
        ([lambda images: images[:1]], r"Received: one that returns \(1, 9, 14, 2\)"),
        (
            [keras.layers.RandomTranslation((0.01, 0.1), 0.5, interpolation="nearest")],
            r"allow a shift by whole pixels.*Received: height_factor=\(0.01, 0.1\)",
        ),
    ],
)
def test_what_augments_no_images_is_refused(layers, message):
    with pytest.raises(InputError, match=message):
        augmented(layers)


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize("name", [*AUGMENTATIONS, "edge-crops-0", "black-crops-9"])
def test_a_registered_name_gives_layers_for_images_of_any_shape(name, mirror):
    layers = AUGMENTATIONS[name](SHAPE, mirror=mirror)
    names = [type(layer).__name__ for layer in layers]
    flips = ["RandomFlip"] if mirror else []
    assert names == ([] if name == "none" else ["RandomTranslation", *flips])
    found = augmented(layers)
    assert found.shape == IMAGES.shape
    assert found.min() >= 0
    assert found.max() <= 1


def test_crops_larger_than_the_image_are_refused():
    with pytest.raises(InputError, match="at most 9 pixels, the shorter side.*Received: 10"):
        AUGMENTATIONS["edge-crops-10"](SHAPE, mirror=True)


def test_names_of_crops_end_in_a_number_of_pixels():
    for name in ("black-crops-0", "black-crops-999", "edge-crops-7", *AUGMENTATIONS):
        assert name in AUGMENTATIONS
    for name in (
        "black-crops-",
        "black-crops-04",
        "black-crops-1000",
        "black-crops--1",
        "shifts-4",
    ):
        assert name not in AUGMENTATIONS
        with pytest.raises(InputError, match="Unknown augmentation"):
            AUGMENTATIONS[name]
    (two, _), (four, _) = (AUGMENTATIONS[f"edge-crops-{n}"](SHAPE, mirror=True) for n in (2, 4))
    assert two.height_factor == pytest.approx(2 / 9)
    assert four.height_factor == pytest.approx(4 / 9)
