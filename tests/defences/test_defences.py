"""What every training method must do: parametrised over the registry."""

import functools
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness.marks import slow_except
from harness.networks import digits, examples, logits_loss, plain_network, residual_network

import parl_tf
from parl_tf.defences import METHODS
from parl_tf.defences.objective import objective as ensemble_objective
from parl_tf.errors import InputError

# Where it is not the graph that is tested: tracing one takes as long as some ten steps without.
EAGER = {"run_eagerly": True}
# TRS takes a minute of tracing for all of its tests.
EACH_METHOD = slow_except(METHODS, *(set(METHODS) - {"trs"}))


def make(method, num_members=2, network=residual_network, compiling=(), **arguments):
    """An ensemble of small networks, compiled."""
    members = [network(seed) for seed in range(num_members)]
    ensemble = METHODS[method](members, **{**small(method), **arguments})
    return compiled(ensemble, **dict(compiling))


def small(method):
    """Arguments that suit the small networks, of those that the method has."""
    names = inspect.signature(METHODS[method]).parameters
    suited = {"num_layers": 2, "tap": "activation", "num_steps": 2, "move_half": True}
    return {name: value for name, value in suited.items() if name in names}


def reported(ensemble):
    """Names of everything that training reports."""
    return {"loss", "cross_entropy", "vote_accuracy"} | {t.name for t in ensemble.term_trackers}


def compiled(ensemble, **options):
    # Adam has eight times as many operations to trace.
    momentum = keras.optimizers.SGD(1e-2, momentum=0.9)
    options = {"optimizer": momentum, "jit_compile": False, **options}
    ensemble.compile(loss=logits_loss(), **options)
    return ensemble


@pytest.mark.parametrize("method", slow_except(METHODS, "parl"))
@pytest.mark.parametrize(
    ("num_members", "network"),
    [(2, residual_network), pytest.param(4, plain_network, marks=pytest.mark.slow)],
)
def test_two_epochs_on_digits_lower_the_loss_and_report_every_term(method, num_members, network):
    images, labels = digits(160)
    ensemble = make(
        method,
        num_members,
        functools.partial(network, num_classes=10),
        {"optimizer": keras.optimizers.Adam(1e-2)},
    )
    history = ensemble.fit(
        images,
        labels,
        batch_size=16,
        epochs=2,
        validation_data=(images[:40], labels[:40]),
        verbose=0,
    ).history
    assert history["loss"][-1] < history["loss"][0]
    names = reported(ensemble)
    assert set(history) == names | {f"val_{name}" for name in names}
    for name in names:
        assert np.isfinite(history[name]).all(), name
        assert history[name][0] != 0, name


@pytest.mark.parametrize("method", EACH_METHOD)
def test_adversarial_training_composes(method):
    images, labels = examples(12)
    options = {"num_steps": 2, "against": "ensemble"}
    ensemble = make(method, compiling=EAGER, adversarial_training=options)
    clean = make(method, compiling=EAGER)
    weights = ensemble.trainable_variables[0].numpy()
    logs = ensemble.train_on_batch(images, labels, return_dict=True)
    assert set(logs) == reported(ensemble)
    assert all(np.isfinite(value) for value in logs.values())
    without = clean.train_on_batch(images, labels, return_dict=True)
    assert logs["cross_entropy"] > without["cross_entropy"]
    assert (ensemble.trainable_variables[0].numpy() != weights).any()


@pytest.fixture(params=[pytest.param("bfloat16", marks=pytest.mark.slow), "float16"])
def half_precision(request):
    keras.config.set_dtype_policy(f"mixed_{request.param}")
    yield request.param
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("method", slow_except(METHODS, "parl"))
def test_mixed_precision_trains_to_nearly_the_same(method, half_precision):
    images, labels = examples(12)
    half = make(method, compiling=EAGER)
    assert half.members[0].compute_dtype == half_precision
    assert half.members[0](images).dtype == half_precision
    scaled = isinstance(half.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (half_precision == "float16")
    keras.config.set_dtype_policy("float32")
    full = make(method, compiling=EAGER)
    before = half.trainable_variables[0].numpy()
    logs, expected = (
        ensemble.train_on_batch(images, labels, return_dict=True) for ensemble in (half, full)
    )
    for _ in range(3):  # the scale of the loss may begin too large, and such steps are left out
        half.train_on_batch(images, labels)
    assert (half.trainable_variables[0].numpy() != before).any()
    assert logs["loss"] == pytest.approx(expected["loss"], rel=0.05)
    for term in half.term_weights:
        assert logs[term] == pytest.approx(expected[term], rel=0.2, abs=0.1), term


def test_what_was_saved_in_half_precision_scales_its_loss_wherever_it_is_compiled(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        parl_tf.Ensemble([residual_network(0), residual_network(1)]).save(tmp_path / "half.keras")
    finally:
        keras.config.set_dtype_policy("float32")
    loaded = compiled(keras.models.load_model(tmp_path / "half.keras"), optimizer="sgd")
    assert isinstance(loaded.optimizer, keras.optimizers.LossScaleOptimizer)
    before = loaded.trainable_variables[0].numpy()
    for _ in range(3):
        loaded.train_on_batch(*examples(12))
    assert (loaded.trainable_variables[0].numpy() != before).any()


@pytest.mark.parametrize("method", slow_except(METHODS, "unprotected"))
def test_several_steps_an_execution_are_the_same_steps(method):
    images, labels = examples(20)
    ensembles = [
        make(method, network=plain_network, compiling={"steps_per_execution": steps})
        for steps in (1, 2)
    ]
    histories = [
        ensemble.fit(images, labels, batch_size=4, epochs=2, shuffle=False, verbose=0).history
        for ensemble in ensembles
    ]
    assert int(ensembles[1].optimizer.iterations) == 10
    for term, values in histories[0].items():
        np.testing.assert_allclose(histories[1][term], values, rtol=1e-4, err_msg=term)
    for ours, theirs in zip(*(ensemble.variables for ensemble in ensembles), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-5)


@pytest.mark.parametrize("method", EACH_METHOD)
def test_a_batch_of_one_and_one_of_a_single_class_train_to_finite_weights(method):
    ensemble = make(method, compiling=EAGER)
    images, _ = examples(3)
    for count in (1, 3):
        logs = ensemble.train_on_batch(images[:count], np.full(count, 2), return_dict=True)
        assert all(np.isfinite(value) for value in logs.values()), logs
    assert all(np.isfinite(v.numpy()).all() for v in ensemble.trainable_variables)


@pytest.mark.parametrize("method", EACH_METHOD)
def test_saturated_predictions_train_to_finite_weights(method):
    ensemble = make(method, compiling=EAGER)
    for member in ensemble.members:  # probabilities of exactly 0 and 1
        kernel, bias = member.layers[-1].weights
        kernel.assign(1e4 * kernel)
        bias.assign([1e4, 0, 0, -1e4])
    images, labels = examples(8)
    logs = ensemble.train_on_batch(images, labels, return_dict=True)
    assert all(np.isfinite(value) for value in logs.values()), logs
    assert all(np.isfinite(v.numpy()).all() for v in ensemble.trainable_variables)


@pytest.mark.parametrize("method", EACH_METHOD)
def test_loss_is_its_reported_parts(method):
    ensemble = make(method, compiling=EAGER)
    logs = ensemble.evaluate(*examples(20), batch_size=20, verbose=0, return_dict=True)
    regularization = float(sum(ensemble.losses)) if ensemble.losses else 0.0
    parts = ensemble.accuracy_weight * logs["cross_entropy"] + regularization
    parts += sum(weight * logs[term] for term, weight in ensemble.term_weights.items())
    assert logs["loss"] == pytest.approx(parts, rel=1e-5)


@pytest.mark.parametrize(
    ("method", "network"),
    [
        pytest.param(
            method,
            network,
            marks=() if (method, network) == ("parl", plain_network) else pytest.mark.slow,
        )
        for method in METHODS
        for network in (plain_network, residual_network)
    ],
)
def test_same_step_with_and_without_xla(method, network, float64):
    # In float32 the sign of a gradient that is nearly 0 may differ, and with it a crafted image.
    images, labels = examples(16)
    images = images.astype("float64")
    plain, xla = (
        make(method, network=network, compiling={"jit_compile": jit_compile})
        for jit_compile in (False, True)
    )
    logs = [model.train_on_batch(images, labels, return_dict=True) for model in (plain, xla)]
    for term, value in logs[0].items():
        assert value == pytest.approx(logs[1][term], rel=1e-6), term
    for ours, theirs in zip(plain.trainable_variables, xla.trainable_variables, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", EACH_METHOD)
def test_a_step_follows_its_objective_through_batch_normalisation(method, float64):
    # Second derivatives too, under batch statistics, against central differences.
    names = inspect.signature(METHODS[method]).parameters
    fixed = {"first_radius": 0.0, "last_radius": 0.0, "penalty_batch_norm": "batch"}
    fixed["norms"] = "differentiated"  # by constant ones a step is not along the value's gradient
    arguments = {name: value for name, value in fixed.items() if name in names}
    smooth = functools.partial(residual_network, activation="softplus")
    ensemble = make(method, network=smooth, **arguments)
    images, labels = (tf.constant(part) for part in examples(6))
    images = tf.cast(images, tf.float64)
    ensemble.optimizer.build(ensemble.trainable_variables)
    views = ensemble.craft(images, labels, None)

    def objective():
        return ensemble_objective(ensemble, images, labels, None, views, training=True).loss

    variables = [variable.value for variable in ensemble.trainable_variables]
    with tf.GradientTape() as tape:
        loss = objective()
    gradients = [g.numpy() for g in tape.gradient(loss, variables)]
    generator = np.random.default_rng(0)
    for _ in range(3):
        direction = [generator.normal(size=variable.shape) for variable in variables]
        values = []
        for step in (1e-5, -2e-5):
            for variable, d in zip(variables, direction, strict=True):
                variable.assign_add(step * d)
            values.append(float(objective()))
        for variable, d in zip(variables, direction, strict=True):
            variable.assign_add(1e-5 * d)
        derivative = sum(np.sum(g * d) for g, d in zip(gradients, direction, strict=True))
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(derivative, rel=1e-5)


@pytest.mark.parametrize("method", slow_except(METHODS, "parl"))
def test_saved_and_loaded_it_continues_bit_for_bit(method, tmp_path):
    images, labels = examples(16)
    ensemble = make(method, compiling=EAGER)
    ensemble.train_on_batch(images, labels)
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.models.load_model(tmp_path / "ensemble.keras")
    assert type(loaded) is METHODS[method]
    ensemble.save_weights(tmp_path / "ensemble.weights.h5")
    fresh = make(method, compiling=EAGER)
    fresh.load_weights(tmp_path / "ensemble.weights.h5")
    for ours, theirs in (
        *zip(ensemble.variables, fresh.variables, strict=True),
        *zip(ensemble.optimizer.variables, fresh.optimizer.variables, strict=True),
    ):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    np.testing.assert_array_equal(
        loaded.predict(images, verbose=0), ensemble.predict(images, verbose=0)
    )
    loaded.jit_compile, loaded.run_eagerly = False, True
    for model in (ensemble, loaded, fresh):
        model.train_on_batch(images, labels)
    assert int(ensemble.optimizer.iterations) == int(loaded.optimizer.iterations) == 2
    for other in (loaded, fresh):
        for ours, theirs in (
            *zip(ensemble.variables, other.variables, strict=True),
            *zip(ensemble.optimizer.variables, other.optimizer.variables, strict=True),
        ):
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize("method", EACH_METHOD)
def test_config_round_trips(method):
    own = {"accuracy_weight": 0.7, "seed": 5, "adversarial_training": {"num_steps": 3}}
    for name, parameter in inspect.signature(METHODS[method]).parameters.items():
        if type(parameter.default) is float and name not in own:
            own[name] = parameter.default / 2
    others = {
        **{"member_reduction": "mean", "layer_reduction": "mean", "cosine": "absolute"},
        **{"tap": "activation", "penalty_batch_norm": "batch", "num_layers": 1, "num_steps": 3},
        "distillation_batch_norm": "moving",
    }
    names = {**inspect.signature(METHODS[method]).parameters, "member_reduction": None}
    own.update({name: value for name, value in others.items() if name in names})
    ensemble = make(method, **own)
    config = ensemble.get_config()
    assert {key: config[key] for key in own if key != "adversarial_training"} == {
        key: value for key, value in own.items() if key != "adversarial_training"
    }
    parameters = set(inspect.signature(METHODS[method]).parameters) - {"options"}
    if method != "unprotected":
        assert parameters <= set(config)
    again = METHODS[method].from_config(config)
    names = [key for key in config if key != "members"]
    assert {key: again.get_config()[key] for key in names} == {key: config[key] for key in names}
    assert again.adversarial_training.num_steps == 3
    assert len(again.members) == 2


def test_fit_takes_all_that_keras_takes():
    images, labels = examples(16)
    ensemble = make("parl", compiling=EAGER)
    seen = []
    ensemble.begin_epoch = lambda epoch, epochs: seen.append((epoch, epochs))
    options = {"add_history": True, "model": ensemble, "epochs": 2, "steps": 2}
    listed = keras.callbacks.CallbackList([], **options)
    for _ in range(2):
        ensemble.fit(images, labels, batch_size=8, epochs=2, callbacks=listed, verbose=0)
    assert seen == [(0, 2), (1, 2)] * 2
    single = keras.callbacks.TerminateOnNaN()
    history = ensemble.fit(images, labels, 8, 1, 0, single, 0.25).history
    assert "val_loss" in history


def test_activity_regularisation_is_of_the_images():
    def network(seed):
        body = plain_network(seed)
        pixels = keras.Input((8, 8, 3))
        x = keras.layers.ActivityRegularization(l2=0.1)(body.layers[0](pixels))
        return keras.Model(pixels, keras.layers.Dense(4)(keras.layers.Flatten()(x)))

    images, labels = examples(6)
    added = []
    for method in ("unprotected", "trs"):
        ensemble = make(method, network=network)
        logs = ensemble.train_on_batch(images, labels, return_dict=True)
        terms = sum(weight * logs[term] for term, weight in ensemble.term_weights.items())
        added.append(logs["loss"] - logs["cross_entropy"] - terms)
    assert added[0] == pytest.approx(added[1], rel=1e-4)
    assert added[0] > 0.1


def test_call_is_the_log_of_the_mean_probability():
    ensemble = make("unprotected", 3)
    images, _ = examples(5)
    mean = np.mean([keras.ops.softmax(m(images, training=False)) for m in ensemble.members], axis=0)
    np.testing.assert_allclose(ensemble(images, training=False), np.log(mean), atol=1e-6)
    np.testing.assert_allclose(ensemble.predict(images, verbose=0), np.log(mean), atol=1e-6)


def test_vote_and_predict_classes_agree_over_batches():
    ensemble = make("unprotected", 3)
    images, _ = examples(11)
    assert ensemble.predict_classes(images, batch_size=4).tolist() == (
        ensemble.vote(images).labels.numpy().tolist()
    )


def test_vote_accuracy_is_that_of_the_vote():
    ensemble = make("unprotected", 3)
    images, labels = examples(30)
    logs = ensemble.evaluate(images, labels, batch_size=7, verbose=0, return_dict=True)
    right = ensemble.predict_classes(images) == labels
    assert logs["vote_accuracy"] == pytest.approx(right.mean())


def test_one_optimizer_trains_members_as_optimizers_of_their_own_would():
    images, labels = examples(16)
    together = make("unprotected", 2, plain_network, {"optimizer": keras.optimizers.Adam(1e-2)})
    alone = [plain_network(seed) for seed in range(2)]
    for member in alone:
        member.compile(optimizer=keras.optimizers.Adam(1e-2), loss=logits_loss(), jit_compile=False)
    for _ in range(3):
        together.train_on_batch(images, labels)
        for member in alone:
            member.train_on_batch(images, labels)
    for ours, theirs in zip(together.members, alone, strict=True):
        for variable, expected in zip(ours.variables, theirs.variables, strict=True):
            np.testing.assert_allclose(variable.numpy(), expected.numpy(), atol=1e-6)


def test_keras_metrics_sample_weights_and_one_hot_labels():
    images, labels = examples(12)
    ensemble = make("unprotected")
    ensemble.compile(
        optimizer="sgd",
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    weights = np.arange(12) / 12.0
    logs = ensemble.evaluate(
        images, np.eye(4)[labels], sample_weight=weights, batch_size=12, verbose=0, return_dict=True
    )
    logits = [member(images, training=False) for member in ensemble.members]
    expected = sum(
        np.mean(weights * keras.losses.sparse_categorical_crossentropy(labels, z, from_logits=True))
        for z in logits
    )
    assert logs["cross_entropy"] == pytest.approx(expected, rel=1e-5)
    assert logs["vote_accuracy"] == pytest.approx(
        (ensemble.predict_classes(images) == labels).mean()
    )
    assert "accuracy" in logs


def test_regularization_of_members_counts_once():
    def network(seed):
        pixels = keras.Input((8, 8, 3))
        x = keras.layers.Conv2D(2, 3, kernel_regularizer=keras.regularizers.L2(0.5))(pixels)
        return keras.Model(pixels, keras.layers.Dense(4)(keras.layers.Flatten()(x)))

    ensemble = make("unprotected", 2, network)
    logs = ensemble.evaluate(*examples(4), verbose=0, return_dict=True)
    penalty = sum(0.5 * np.sum(np.square(m.layers[1].kernel.numpy())) for m in ensemble.members)
    assert logs["loss"] - logs["cross_entropy"] == pytest.approx(penalty, rel=1e-4)


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        keras.losses.sparse_categorical_crossentropy,
        keras.losses.SparseCategoricalCrossentropy(),
        keras.losses.KLDivergence(),
        None,
    ],
)
def test_refuses_a_loss_that_takes_probabilities(loss):
    ensemble = parl_tf.Ensemble([plain_network(seed) for seed in range(2)])
    ensemble.compile(optimizer="sgd", loss=loss)
    with pytest.raises(InputError, match="from_logits=True"):
        ensemble.train_on_batch(*examples(4))


def softmax_network(last):
    pixels = keras.Input((8, 8, 3))
    return keras.Model(pixels, last(keras.layers.Flatten()(pixels)))


def other_input(seed):
    pixels = keras.Input((9, 8, 3))
    return keras.Model(pixels, keras.layers.Dense(4)(keras.layers.Flatten()(pixels)))


def other_classes(seed):
    pixels = keras.Input((8, 8, 3))
    return keras.Model(pixels, keras.layers.Dense(5)(keras.layers.Flatten()(pixels)))


def two_outputs():
    pixels = keras.Input((8, 8, 3))
    x = keras.layers.Flatten()(pixels)
    return keras.Model(pixels, [keras.layers.Dense(4)(x), keras.layers.Dense(4)(x)])


def wrapped(model):
    pixels = keras.Input((8, 8, 3))
    return keras.Model(pixels, keras.layers.Dropout(0.1)(model(pixels)))


SAME = plain_network(0)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "at least two members. Received: 0"),
        ([SAME], "at least two members. Received: 1"),
        ([SAME, SAME], "same object more than once"),
        ([SAME, other_input(1)], "one input shape and number of classes"),
        ([SAME, other_classes(1)], "one input shape and number of classes"),
        ([SAME, two_outputs()], "one input and one output"),
        ([SAME, "resnet20"], "functional Keras model"),
        ([SAME, keras.Sequential([keras.layers.Dense(4)])], "functional Keras model"),
        ([SAME, softmax_network(keras.layers.Dense(4, activation="softmax"))], "probabilities"),
        (
            [SAME, softmax_network(lambda x: keras.layers.Softmax()(keras.layers.Dense(4)(x)))],
            "probabilities",
        ),
        (
            [SAME, softmax_network(lambda x: keras.ops.softmax(keras.layers.Dense(4)(x)))],
            "probabilities",
        ),
        ([SAME, wrapped(softmax_network(keras.layers.Dense(4, activation="softmax")))], "probab"),
        ([SAME, softmax_network(keras.layers.Dense(1))], "at least two classes"),
        ([SAME, keras.Model(SAME.inputs, SAME.outputs)], "shared weights"),
    ],
)
def test_refuses_members_that_cannot_be_asked_together(members, message):
    with pytest.raises(InputError, match=message):
        parl_tf.Ensemble(members)


def test_refuses_integer_pixels():
    with pytest.raises(InputError, match="float pixels in"):
        make("unprotected").train_on_batch(np.ones((4, 8, 8, 3), "uint8"), np.zeros(4, "int64"))


@pytest.mark.parametrize("value", [255.0, -1.0, np.nan, np.inf])
def test_refuses_pixels_out_of_range_while_training(value):
    images, labels = examples(4)
    images[2, 3, 4, 1] = value
    for step in (make("unprotected").train_on_batch, make("unprotected").evaluate):
        with pytest.raises(InputError, match="pixels"):
            step(images, labels)
    with pytest.raises(InputError, match="pixels"):
        make("unprotected").predict_classes(images)


def test_unknown_method_comes_with_near_matches():
    with pytest.raises(InputError, match="Did you mean parl"):
        METHODS["parll"]
