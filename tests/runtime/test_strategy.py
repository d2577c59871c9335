"""Training on several devices at once, which a process decides on before all else."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest

from parl_tf.cli import train
from parl_tf.training.folders import read_config

HOUSE = """
import sys
import keras, numpy as np, tensorflow as tf
import parl_tf
from parl_tf.data.augmentation import AUGMENTATIONS
from parl_tf.data.batches import training_batches
from parl_tf.data.examples import Split
from parl_tf.defences import METHODS
from parl_tf.runtime.devices import spread_over
from parl_tf.errors import InputError

def network(seed, synchronized=True):
    keras.utils.set_random_seed(seed)
    x = pixels = keras.Input((8, 8, 3))
    for filters in (4, 6):
        y = keras.layers.Conv2D(filters, 3, padding="same")(x)
        y = keras.layers.BatchNormalization(synchronized=synchronized)(y)
        x = keras.layers.ReLU()(keras.layers.Add()([y, keras.layers.Conv2D(filters, 1)(x)]))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(pixels, keras.layers.Dense(4, kernel_regularizer="l2")(x))

def compiled(method="unprotected", networks=None, compiling=(), **options):
    ensemble = METHODS[method](networks or [network(0), network(1)], **options)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    given = {"optimizer": keras.optimizers.SGD(0.05), "loss": loss, "jit_compile": False}
    ensemble.compile(**{**given, **dict(compiling)})
    return ensemble

draw = np.random.default_rng(0)
SPLIT = Split(draw.random((32, 8, 8, 3), dtype=np.float32), draw.integers(0, 4, 32))
"""
TRAIN = """
keras.config.set_floatx("float64")
keras.config.set_dtype_policy("float64")

def trained(*arguments, **options):
    ensemble = compiled(*arguments, **options)
    layers = AUGMENTATIONS["black-crops-1"]((8, 8, 3), mirror=True)
    batches = training_batches(SPLIT, batch_size=16, seed=3, augmentation=layers)
    validation = tf.data.Dataset.from_tensor_slices((SPLIT.images, SPLIT.labels)).batch(20)
    batches, validation = (
        some.map(lambda images, labels: (tf.cast(images, tf.float64), labels))
        for some in (batches, validation)
    )
    fitted = ensemble.fit(batches, epochs=2, verbose=0, shuffle=False, validation_data=validation)
    return ensemble, fitted.history

CASES = {
    "unprotected": {},
    "adp": {},
    "gal": {},
    "dverge": {"num_steps": 3},
    "dverge, with moved statistics": {"num_steps": 3, "distillation_moves_statistics": True},
    "trs": {},
    "trs, half of the images moved": {"move_half": True, "num_steps": 2},
    "guardian": {"num_layers": 2},
    "parl": {"num_layers": 2},
    "parl with batch statistics": {"num_layers": 2, "penalty_batch_norm": "batch"},
    "unprotected, adversarially": {"adversarial_training": {"num_steps": 2, "batch_norm": "batch"}},
    "parl, adversarially": {"num_layers": 2, "adversarial_training": {"num_steps": 2}},
    "unprotected, with metrics": {"compiling": {"metrics": ["accuracy"]}},
    "unprotected, with Adam": {
        "compiling": {  # made in the scope
            "optimizer": {"class_name": "parl_tf>FusedAdam", "config": {"learning_rate": 0.01}}
        }
    },
}
assert {case.split()[0].strip(",") for case in CASES} == set(METHODS)
shared = {}
for case in CASES:  # in a scope each: one after the other may be entered
    with spread_over(2):
        shared[case] = trained(case.split()[0].strip(","), **CASES[case])
for case in CASES:
    (one, history), (two, shared_history) = (
        trained(case.split()[0].strip(","), **CASES[case]), shared[case]
    )
    assert two.distribute_strategy.num_replicas_in_sync == 2
    assert history.keys() == shared_history.keys()
    for term in history:
        np.testing.assert_allclose(
            shared_history[term], history[term], rtol=1e-6, atol=1e-7, err_msg=f"{case}: {term}"
        )
    for ours, theirs in zip(one.variables, two.variables, strict=True):
        np.testing.assert_allclose(
            theirs.numpy(), ours.numpy(), atol=1e-9, err_msg=f"{case}: {ours.path}"
        )
    print(case, "is the same on two devices")
with spread_over(2):
    fused = compiled(compiling={"optimizer": parl_tf.FusedAdam()})
    fused.optimizer.build(fused.trainable_variables)
    step = tf.function(lambda: fused.distribute_strategy.run(
        fused.train_step, [(tf.constant(SPLIT.images, tf.float64), tf.constant(SPLIT.labels))]
    ))
    graph = step.get_concrete_function().graph
kinds = [operation.type for operation in graph.get_operations()]
for name in graph.as_graph_def().library.function:
    kinds += [node.op for node in name.node_def]
assert kinds.count("ResourceApplyAdam") == 2 * len(fused.trainable_variables), kinds.count(
    "ResourceApplyAdam"
)
print("every weight's update is fused on two devices")
"""
REFUSED = """
def refused(expected, batch_size=16, **options):
    try:
        images, labels = SPLIT.images[:batch_size], SPLIT.labels[:batch_size]
        compiled(**options).fit(images, labels, batch_size=batch_size, verbose=0)
    except InputError as error:
        assert expected in str(error), error
        print("refused")

with spread_over(2):
    refused("synchronized=True", networks=[network(0), network(1, synchronized=False)])
    refused("steps_per_execution=2", compiling={"steps_per_execution": 2})
    refused("jit_compile=True", compiling={"jit_compile": True})
    refused("without clipping", compiling={"optimizer": keras.optimizers.SGD(clipnorm=1.0)})
    weighted = keras.losses.SparseCategoricalCrossentropy(True, reduction="mean_with_sample_weight")
    refused("another reduction", compiling={"loss": weighted})
    whole = network(0)
    dropped = keras.Model(whole.input, keras.layers.Dropout(0.5)(whole.output))
    refused("a Dropout", networks=[dropped, network(1)])
    refused("images on each device. Received: 3", method="trs", batch_size=6, move_half=True)
    try:
        compiled().fit(SPLIT.images[:7], SPLIT.labels[:7], batch_size=7, verbose=0)
    except tf.errors.InvalidArgumentError as error:
        assert "split evenly" in str(error), error
        print("refused")
    undivided = tf.data.Dataset.from_tensor_slices((255 * SPLIT.images, SPLIT.labels)).batch(16)
    shared_out = tf.distribute.get_strategy().experimental_distribute_dataset(undivided)
    for batches in (undivided, shared_out):  # checked on its way; by an assertion in the graph
        try:
            compiled().fit(batches, shuffle=False, verbose=0)
        except InputError as error:
            assert "Divide by 255 first." in str(error), error
            print("refused")
    with spread_over(2):
        print("nothing to do")
    try:
        with spread_over(3):
            pass
    except InputError as error:
        assert "Received: 2" in str(error), error
        print("refused")
"""
HALF = """
from parl_tf.runtime.replicas import finite_together

keras.config.set_dtype_policy("mixed_float16")
with spread_over(2):
    ensemble = compiled(compiling={"optimizer": "sgd"})
    assert isinstance(ensemble.optimizer, keras.optimizers.LossScaleOptimizer)
    ensemble.build_optimizer()
before = [value.copy() for value in ensemble.get_weights()]
strategy = ensemble.distribute_strategy

@tf.function
def step(overflow):
    def of_replica():
        one = tf.distribute.get_replica_context().replica_id_in_sync_group == 1
        wrong = tf.where(one & overflow, float("inf"), 0.0)
        gradients = [tf.ones_like(v.value) + wrong for v in ensemble.trainable_variables]
        ensemble.optimizer.apply_gradients(
            zip(finite_together(gradients), ensemble.trainable_variables)
        )
    strategy.run(of_replica)

scale = float(ensemble.optimizer.dynamic_scale.numpy())
step(tf.constant(True))
for value, was in zip(ensemble.get_weights(), before):
    np.testing.assert_array_equal(value, was)
assert ensemble.optimizer.dynamic_scale.numpy() == scale / 2
print("left out")
step(tf.constant(False))
kernel = ensemble.members[0].trainable_variables[0]
np.testing.assert_allclose(kernel.numpy(), before[0] - 0.01 * 2 * 2 / scale, rtol=1e-3)
print("made")
"""
WORKER = """
strategy = tf.distribute.MultiWorkerMirroredStrategy()
with strategy.scope():
    ensemble = compiled()
try:
    ensemble.fit(SPLIT.images, SPLIT.labels, batch_size=16, verbose=0)
except InputError as error:
    assert "parl-reproduce --ray" in str(error)
    print("refused")
"""


def begin(code, *arguments, **environment):
    """A process that runs code with this package."""
    return subprocess.Popen(
        [sys.executable, "-c", HOUSE + code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(pathlib.Path(__file__).parents[2]),
            "CUDA_VISIBLE_DEVICES": "-1",
            **environment,
        },
    )


def output_of(process):
    """What a process printed, once it is done."""
    out, err = process.communicate(timeout=1800)
    assert process.returncode == 0, err[-3000:]
    return out


@pytest.mark.slow
def test_every_method_trains_on_two_devices_as_on_one():
    assert output_of(begin(TRAIN)).count("is the same on two devices") == 14


@pytest.mark.slow
def test_what_would_train_otherwise_is_refused():
    assert output_of(begin(REFUSED)).split("\n")[:-1] == [
        *["refused"] * 10,
        "nothing to do",
        "refused",
    ]


@pytest.mark.slow
def test_a_step_that_overflows_on_one_device_is_left_out_on_all():
    assert output_of(begin(HALF)) == "left out\nmade\n"


@pytest.mark.slow
def test_two_workers_are_refused_with_what_to_do_instead():
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("localhost", 0))
        workers = [f"localhost:{each.getsockname()[1]}" for each in (first, second)]
    processes = [
        begin(
            WORKER,
            TF_CONFIG=json.dumps(
                {
                    "cluster": {"worker": workers},
                    "task": {"type": "worker", "index": index},
                }
            ),
        )
        for index in range(2)
    ]
    try:
        assert [output_of(process) for process in processes] == ["refused\n"] * 2
    finally:
        for process in processes:
            process.kill()


def tool(*arguments):
    """Runs parl-train as a process of its own."""
    return begin("import parl_tf_tools, sys\nsys.exit(parl_tf_tools.train())", *arguments)


@pytest.mark.slow
def test_the_tool_trains_on_two_devices_and_resumes_on_two(tmp_path):
    options = (
        "--method unprotected --dataset digits --network resnet8 --members 2 --batch-size 16 "
        "--epochs 2 --train-examples 51 --validation-fraction 0.35 --devices 2 --deterministic"
    )
    stopped, straight = str(tmp_path / "stopped"), str(tmp_path / "straight")
    running = tool(*options.split(), "--out", stopped)
    for line in running.stderr:
        if re.search("1 of 2 epochs done", line):
            break
    while not list(pathlib.Path(stopped).glob("checkpoint-*.keras")):
        assert running.poll() is None
    running.kill()
    running.communicate()
    output_of(tool("--resume", stopped))
    output_of(tool(*options.split(), "--out", straight))
    assert read_config(straight).devices == 2
    lines = [pathlib.Path(run, "history.csv").read_text() for run in (stopped, straight)]
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_out_is_refused(tmp_path, capsys):
    options = "--method unprotected --dataset digits --train-examples 60 --devices 2"
    refused = tool(*options.split(), "--batch-size", "15", "--out", str(tmp_path / "run"))
    _, message = refused.communicate()
    assert refused.returncode == 2
    assert "batch_size divisible by the number of devices, 2. Received: 15" in message


def test_devices_that_are_not_there_are_refused(tmp_path, capsys):
    import tensorflow as tf

    tf.constant(0)  # from here on the CPU is one device
    options = ["--method", "unprotected", "--dataset", "digits", "--devices", "2"]
    assert train.main([*options, "--out", str(tmp_path / "run")]) == 2
    assert "before TensorFlow computes anything" in capsys.readouterr().err
