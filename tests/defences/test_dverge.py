"""DVERGE against a plain loop, and how its layers, partners and graphs are chosen."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness.marks import slow_except
from harness.networks import examples, logits_loss, plain_network, residual_network

import parl_tf
from parl_tf.errors import InputError
from parl_tf.graphs.exposure import distillation_outputs


def ensemble_of(network=plain_network, num_members=2, compiled=None, **arguments):
    ensemble = parl_tf.DVERGE([network(seed) for seed in range(num_members)], **arguments)
    options = {"optimizer": keras.optimizers.SGD(0.1), "jit_compile": False, **(compiled or {})}
    ensemble.compile(loss=logits_loss(), **options)
    return ensemble


def at_layer(ensemble, layer):
    """Begins an epoch in which the layer is this one."""
    epochs = (epoch for epoch in range(100) if ensemble.layer_of_epoch(epoch) == layer)
    ensemble.begin_epoch(next(epochs), 100)
    return ensemble


def batch(count=5):
    """Images, partners and labels."""
    images, labels = examples(count)
    both = np.stack([images, examples(count, seed=1)[0]]).astype(keras.config.floatx())
    return *map(tf.constant, both), tf.constant(labels)


def distilled_by_hand(features, images, partners, training):
    """Ten steps of 0.007 with momentum 1, within 0.07, from the images themselves."""
    target = features(partners, training=training)
    points, momentum = images, np.zeros(images.shape)
    for _ in range(10):
        with tf.GradientTape() as tape:
            tape.watch(points)
            distance = tf.reduce_sum((features(points, training=training) - target) ** 2)
        gradient = tape.gradient(distance, points).numpy()
        momentum += gradient / np.abs(gradient).sum(axis=(1, 2, 3), keepdims=True)
        moved = points - 0.007 * np.sign(momentum)
        points = tf.constant(np.clip(np.clip(moved, images - 0.07, images + 0.07), 0, 1))
    return points


def before_activation(network):
    """What `residual_network` applies its activations to, then its logits."""
    norms = [x for x in network.layers if isinstance(x, keras.layers.BatchNormalization)]
    add = next(x for x in network.layers if isinstance(x, keras.layers.Add))
    return [norms[0].output, norms[1].output, add.output, network.output]


def cross_entropy(member, images, labels):
    return np.mean(keras.losses.sparse_categorical_crossentropy(labels, member(images), True))


@pytest.mark.parametrize("mode", ["batch", "moving"])
@pytest.mark.parametrize("layer", slow_except([2, 3, 4], 4))
def test_distilled_images_are_those_of_a_plain_loop(float64, layer, mode):
    ensemble = ensemble_of(residual_network, 3, distillation_batch_norm=mode)
    images, partners, labels = batch()
    views = at_layer(ensemble, layer).craft(images, labels, partners)
    expected = []
    for member in ensemble.members:
        features = keras.Model(member.input, before_activation(member)[layer - 1])
        expected.append(distilled_by_hand(features, images, partners, mode == "batch"))
    for index, found in enumerate(views):
        others = [made for maker, made in enumerate(expected) if maker != index]
        np.testing.assert_allclose(found, others, atol=1e-9)


def test_the_features_are_before_activations():
    network = residual_network(0)
    expected = before_activation(network)
    found = distillation_outputs(network)
    assert [id(tensor) for tensor in found] == [id(tensor) for tensor in expected]


def test_resnet20_has_20_layers():
    members = [parl_tf.resnet20(10, input_shape=(8, 8, 3), seed=seed) for seed in range(2)]
    ensemble = parl_tf.DVERGE(members)
    assert ensemble.num_layers == 20
    outputs = distillation_outputs(members[0])
    assert [t._keras_history.operation.name.rstrip("_0123456789") for t in outputs] == [
        "batch_normalization",
        *["batch_normalization", "add"] * 9,
        "logits",
    ]
    read = [x.input for x in members[0].layers if isinstance(x, keras.layers.ReLU)]
    assert [id(tensor) for tensor in outputs] == [id(t) for t in (*read, members[0].output)]


def test_layers_are_drawn_from_all_by_seed_and_epoch():
    first, equal, other = (
        [ensemble.layer_of_epoch(epoch) for epoch in range(80)]
        for ensemble in (ensemble_of(residual_network, seed=seed) for seed in (1, 1, 2))
    )
    assert first == equal != other
    counts = np.bincount(first)
    assert len(counts) == 5
    assert counts[0] == 0
    assert counts[1:].min() > 80 / 4 / 2


def test_history_names_the_layer_of_each_epoch():
    ensemble = ensemble_of(seed=3, num_steps=1, compiled={"run_eagerly": True})
    images, _, labels = batch()
    history = ensemble.fit(images, labels, epochs=6, verbose=0).history
    assert history["layer"] == [ensemble.layer_of_epoch(epoch) for epoch in range(6)]
    assert len(set(history["layer"])) > 1


def test_members_of_different_depth_share_layers_and_end_in_their_logits(float64):
    ensemble = parl_tf.DVERGE([plain_network(0), residual_network(1)])
    ensemble.compile(loss=logits_loss(), jit_compile=False)
    assert ensemble.num_layers == 3
    images, partners, labels = batch()
    views = at_layer(ensemble, 3).craft(images, labels, partners)
    for maker, member in enumerate(ensemble.members):
        expected = distilled_by_hand(member, images, partners, True)
        np.testing.assert_allclose(views[1 - maker][0], expected, atol=1e-9)


@pytest.mark.parametrize(
    "adversarial_training", [None, pytest.param({"num_steps": 2}, marks=pytest.mark.slow)]
)
def test_loss_is_the_cross_entropy_at_the_others_images(float64, adversarial_training):
    ensemble = ensemble_of(num_members=3, adversarial_training=adversarial_training)
    images, _, labels = batch()
    views = ensemble.craft(images, labels, None)
    assert [len(own) for own in views] == [2 if adversarial_training is None else 3] * 3
    expected = sum(
        cross_entropy(member, view, labels)
        for member, own in zip(ensemble.members, views, strict=True)
        for view in own
    )
    logs = ensemble.train_on_batch(images, labels, return_dict=True)
    assert logs["cross_entropy"] == pytest.approx(expected, rel=1e-9)
    assert logs["loss"] == pytest.approx(expected, rel=1e-9)


def test_a_batch_of_one_is_its_own_partner_and_stays():
    ensemble = ensemble_of(num_members=3)
    images, _, labels = batch(1)
    clean = sum(cross_entropy(member, images, labels) for member in ensemble.members)
    logs = ensemble.train_on_batch(images, labels, return_dict=True)
    assert logs["loss"] == pytest.approx(2 * clean, rel=1e-5)


def test_a_single_class_trains_to_finite_weights():
    ensemble = ensemble_of(residual_network, compiled={"run_eagerly": True}, num_steps=3)
    images, _, _ = batch()
    logs = ensemble.train_on_batch(images, tf.fill(5, 2), return_dict=True)
    assert np.isfinite(logs["loss"])
    assert all(np.isfinite(weight).all() for weight in ensemble.get_weights())


@pytest.mark.parametrize("mode", ["batch", "moving"])
def test_crafting_changes_no_variable(mode):
    ensemble = ensemble_of(residual_network, distillation_batch_norm=mode, num_steps=2)
    images, partners, labels = batch()
    before = [v.numpy() for v in ensemble.variables]
    tf.function(ensemble.craft)(images, labels, partners)
    for variable, expected in zip(ensemble.variables, before, strict=True):
        np.testing.assert_array_equal(variable, expected)


class Counting(parl_tf.DVERGE):
    """Counts how often its step is traced."""

    traces = 0

    def craft(self, images, labels, partners):
        self.traces += 1
        return super().craft(images, labels, partners)


@pytest.mark.slow
def test_each_layer_is_traced_once_until_the_next_compile():
    ensemble = Counting([plain_network(seed) for seed in range(2)], seed=3, num_steps=1)
    images, _, labels = batch(4)

    def train(learning_rate):
        before = [v.numpy() for v in ensemble.trainable_variables]
        ensemble.compile(keras.optimizers.SGD(learning_rate), logits_loss(), jit_compile=False)
        layers = ensemble.fit(images, labels, 2, epochs=6, verbose=0).history["layer"]
        now = [v.numpy() for v in ensemble.trainable_variables]
        return layers, any((a != b).any() for a, b in zip(now, before, strict=True))

    layers, changed = train(0.1)
    assert 1 < len(set(layers)) < len(layers)
    assert ensemble.traces == len(set(layers))
    assert changed
    again, changed = train(0.0)
    assert again == layers
    assert ensemble.traces == 2 * len(set(layers))
    assert not changed


def test_fit_on_pairs_distils_towards_the_partners(float64):
    ensemble = ensemble_of()
    images, partners, labels = batch()
    ensemble.begin_epoch(0, 1)
    first, second = ensemble.craft(images, labels, partners)
    expected = cross_entropy(ensemble.members[0], first[0], labels)
    expected += cross_entropy(ensemble.members[1], second[0], labels)
    pairs = tf.data.Dataset.from_tensors(((images, partners), labels))
    history = ensemble.fit(pairs, shuffle=False, verbose=0).history
    assert history["loss"][0] == pytest.approx(expected, rel=1e-9)


def test_refuses_pairs_where_they_mean_nothing():
    images, partners, labels = batch()
    members = [plain_network(seed) for seed in range(2)]
    for ensemble, parts in (
        (parl_tf.ADP(members), (images, partners)),
        (parl_tf.DVERGE(members), (images, partners, partners)),
    ):
        ensemble.compile(loss=logits_loss(), jit_compile=False)
        batches = tf.data.Dataset.from_tensors((parts, labels))
        with pytest.raises(InputError, match=f"Received: {len(parts)} parts"):
            ensemble.fit(batches, shuffle=False, verbose=0)


def test_without_pairs_partners_are_a_permutation_that_each_step_draws():
    ensemble = ensemble_of(num_steps=2)
    images, _, labels = batch()
    towards = [  # without batch norm an example's image depends on its own partner only
        ensemble.craft(images, labels, tf.repeat(images[other : other + 1], 5, axis=0))[0][0]
        for other in range(5)
    ]
    drawn = []
    for step in range(4):
        ensemble.optimizer.iterations.assign(step)
        made = ensemble.craft(images, labels, None)[0][0]
        same = np.all(made == tf.stack(towards), axis=(2, 3, 4))
        assert (same.sum(axis=0) == 1).all()
        drawn.append(tuple(same.argmax(axis=0)))
        assert sorted(drawn[-1]) == list(range(5))
    assert len(set(drawn)) > 2


def test_normalisation_by_batch_is_fused_in_crafting_and_in_training():
    ensemble = at_layer(ensemble_of(residual_network), 2)
    images, partners, labels = batch()
    step = tf.function(ensemble.train_step).get_concrete_function(((images, partners), labels))
    graph = step.graph.as_graph_def()
    bodies = {node.attr["body"].func.name for node in graph.node if "body" in node.attr}
    loops = [f for f in graph.library.function if f.signature.name in bodies]

    def count(nodes):
        return [node.op for node in nodes].count("FusedBatchNormV3")

    # For each member that of its partners' features and of its images in a step of crafting, two
    # layers each, and of the other member's images, all three layers. Moments are one operation,
    # normalisation by them another.
    assert count(graph.node) == 2 * 2 * (2 + 3)
    assert [count(loop.node_def) for loop in loops] == [2 * 2, 2 * 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 0}, "epsilon in .0, 1.. Received: 0"),
        ({"epsilon": 18}, "epsilon in .0, 1.. Received: 18"),
        ({"step_size": 0.1}, "step_size in .0, epsilon.*Received: 0.1"),
        ({"step_size": 0}, "step_size in .0, epsilon.*Received: 0"),
        ({"num_steps": 0}, "num_steps of at least 1. Received: 0"),
        ({"distillation_batch_norm": "none"}, "Unknown distillation_batch_norm"),
    ],
)
def test_refuses_bad_values(arguments, message):
    with pytest.raises(InputError, match=message):
        ensemble_of(**arguments)


def batch_norms(network):
    return [x for x in network.layers if isinstance(x, keras.layers.BatchNormalization)]


@pytest.mark.parametrize(
    ("layer", "xla"),
    slow_except([(1, False), (2, False), (4, False), (2, True)], (1, False), (4, False)),
)
def test_distillation_can_move_the_moving_statistics_as_a_plain_loop_does(float64, layer, xla):
    ensemble = ensemble_of(residual_network, 2, distillation_moves_statistics=True, num_steps=3)
    images, partners, labels = batch()
    copies = [keras.models.clone_model(member) for member in ensemble.members]
    for copy, member in zip(copies, ensemble.members, strict=True):
        copy.set_weights(member.get_weights())
    tf.function(at_layer(ensemble, layer).craft, jit_compile=xla)(images, labels, partners)
    for copy, member in zip(copies, ensemble.members, strict=True):
        features = keras.Model(copy.input, before_activation(copy)[layer - 1])
        points, momentum = images, np.zeros(images.shape)
        for _ in range(3):
            with tf.GradientTape() as tape:
                tape.watch(points)
                found = features(points, training=True)
                distance = tf.reduce_sum((found - features(partners, training=True)) ** 2)
            gradient = tape.gradient(distance, points).numpy()
            momentum += gradient / np.abs(gradient).sum(axis=(1, 2, 3), keepdims=True)
            moved = points - 0.007 * np.sign(momentum)
            points = tf.constant(np.clip(np.clip(moved, images - 0.07, images + 0.07), 0, 1))
        for ours, theirs in zip(
            member.non_trainable_variables, copy.non_trainable_variables, strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, err_msg=ours.path)


def test_the_stem_s_moving_mean_is_that_of_images_and_partners_in_turn(float64):
    ensemble = ensemble_of(residual_network, 2, distillation_moves_statistics=True, num_steps=1)
    images, partners, labels = batch()
    member = ensemble.members[0]
    expected = batch_norms(member)[0].moving_mean.numpy()
    untouched = batch_norms(member)[1].moving_mean.numpy()
    for pixels in (images, partners):
        mean = member.get_layer("stem")(pixels).numpy().mean(axis=(0, 1, 2))
        expected = 0.99 * expected + 0.01 * mean
    at_layer(ensemble, 1).craft(images, labels, partners)
    np.testing.assert_allclose(batch_norms(member)[0].moving_mean, expected, rtol=1e-9)
    np.testing.assert_array_equal(batch_norms(member)[1].moving_mean, untouched)


def test_moving_the_statistics_changes_no_distilled_image(float64):
    images, partners, labels = batch()
    kept, moved = (
        at_layer(ensemble_of(residual_network, 2, distillation_moves_statistics=moves), 3).craft(
            images, labels, partners
        )
        for moves in (False, True)
    )
    np.testing.assert_allclose(moved, kept, atol=1e-12)


def test_a_file_from_before_statistics_could_be_moved_does_not_move_them():
    config = ensemble_of().get_config()
    assert config.pop("distillation_moves_statistics") is False
    assert not parl_tf.DVERGE.from_config(config).distillation_moves_statistics


def test_refuses_to_move_statistics_that_distillation_does_not_compute():
    with pytest.raises(InputError, match="distillation_batch_norm='batch'. Received: 'mov"):
        ensemble_of(distillation_moves_statistics=True, distillation_batch_norm="moving")
