"""Training on several devices at once."""

import os
import pathlib
import subprocess
import sys

import pytest

TRAIN = """
import sys
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import parl_tf
from parl_tf.defences import METHODS

def network(seed):
    keras.utils.set_random_seed(seed)
    x = pixels = keras.Input((8, 8, 3))
    for _ in range(2):
        x = keras.layers.Conv2D(4, 3, padding="same")(x)
        x = keras.layers.BatchNormalization(synchronized=True)(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(pixels, keras.layers.Dense(4, kernel_regularizer="l2")(x))

def trained(method):
    ensemble = METHODS[method](
        [network(0), network(1)], **({"num_layers": 2} if method == "parl" else {})
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    ensemble.compile(keras.optimizers.SGD(0.05), loss, jit_compile=False)
    draw = np.random.default_rng(0)
    images, labels = draw.random((32, 8, 8, 3), dtype=np.float32), draw.integers(0, 4, 32)
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(16)
    losses = ensemble.fit(batches, epochs=2, verbose=0, shuffle=False).history["loss"]
    return ensemble, losses

for method in sys.argv[1:]:
    one, losses = trained(method)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        two, shared = trained(method)
    np.testing.assert_allclose(shared, losses, rtol=1e-5)
    for ours, theirs in zip(one.variables, two.variables, strict=True):
        np.testing.assert_allclose(theirs.numpy(), ours.numpy(), atol=2e-6, err_msg=ours.path)
    print(method, "is the same on two devices")
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["unprotected", "adp", "parl"])
def test_two_devices_train_as_one(method):
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, method],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parent.parent)},
    )
    assert done.returncode == 0, done.stderr
    assert f"{method} is the same on two devices" in done.stdout
