"""The same bits from one process to the next."""

import subprocess
import sys

import pytest

STEPS = """
import hashlib, sys
from parl_tf.determinism import enable_determinism
enable_determinism()
import keras, numpy as np
import parl_tf
from parl_tf.models.resnet import resnet8
seed = int(sys.argv[1])
members = [resnet8(10, input_shape=(8, 8, 1), seed=seed + index) for index in range(2)]
ensemble = parl_tf.PARL(members, num_layers=7)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ensemble.compile(optimizer="adam", loss=loss)
draw = np.random.default_rng(0)
images = draw.random((32, 8, 8, 1), dtype=np.float32)
for _ in range(2):
    ensemble.train_on_batch(images, draw.integers(0, 10, 32).astype(np.int32))
print(hashlib.sha256(b"".join(w.tobytes() for w in ensemble.get_weights())).hexdigest())
"""


@pytest.mark.slow
def test_a_training_has_the_same_bits_in_every_process():
    processes = [
        subprocess.Popen([sys.executable, "-c", STEPS, seed], stdout=subprocess.PIPE, text=True)
        for seed in ("0", "0", "5")
    ]
    first, again, other = [process.communicate()[0] for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert len(first.strip()) == 64
    assert again == first
    assert other != first
