import logging

import keras
import numpy as np
import pytest
from harness.networks import examples, logits_loss, plain_network

import parl_tf
from parl_tf.errors import DivergedError
from parl_tf.training.divergence import StopWhenDiverged
from parl_tf.training.progress import TimeLeft


def test_time_left_is_that_of_the_epochs_after_the_first(monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    callback = TimeLeft("runs/parl")
    callback.set_params({"epochs": 5})
    callback.on_train_begin()
    with caplog.at_level(logging.INFO, logger="parl_tf"):
        for epoch, seconds in enumerate([100.0, 60.0, 80.0, 70.0, 70.0]):
            now[0] += seconds
            callback.on_epoch_end(epoch)
    assert [record.message for record in caplog.records] == [
        "runs/parl: 1 of 5 epochs done, about 0:06:40 left.",
        "runs/parl: 2 of 5 epochs done, about 0:03:00 left.",
        "runs/parl: 3 of 5 epochs done, about 0:02:20 left.",
        "runs/parl: 4 of 5 epochs done, about 0:01:10 left.",
    ]


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_loss_that_is_not_finite_ends_fit_at_its_step(epoch):
    images, labels = examples(24)
    ensemble = parl_tf.Ensemble([plain_network(0), plain_network(1)])
    ensemble.compile(keras.optimizers.SGD(0.01), logits_loss(), jit_compile=False)
    seen = []

    class Poison(keras.callbacks.Callback):
        def on_epoch_begin(self, number, logs=None):
            self.number = number

        def on_train_batch_begin(self, batch, logs=None):
            seen.append((self.number, batch))
            if (self.number, batch) == (epoch, 1):
                weights = self.model.members[0].get_weights()
                self.model.members[0].set_weights([np.full_like(w, np.nan) for w in weights])

    with pytest.raises(DivergedError, match=rf"nan in epoch {epoch + 1}, step 2\b.*0\.01"):
        ensemble.fit(
            *(images, labels),
            batch_size=8,
            epochs=2,
            verbose=0,
            callbacks=[StopWhenDiverged(), Poison()],
        )
    assert seen[-1] == (epoch, 1)
