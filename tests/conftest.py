import gc
import os

import keras
import pytest

# What is imported stays. Not to go through it time and again saves a tenth of the time.
gc.collect()
gc.freeze()
gc.set_threshold(20_000, 20, 20)


@pytest.fixture
def float64():
    """Keras in float64, for comparisons with finite differences."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="session")
def cifar10_dir():
    """The folder of tensorflow-datasets that holds CIFAR-10."""
    folder = os.environ.get("PARL_TF_DATA_DIR")
    if not folder:
        pytest.skip("PARL_TF_DATA_DIR does not name a folder with CIFAR-10")
    return folder
