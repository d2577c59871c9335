"""No weight is read while it is updated: the graph of a step, as TensorFlow optimized it."""

import functools

import pytest
import tensorflow as tf
from harness.marks import slow_except
from harness.networks import examples, logits_loss, plain_network, residual_network
from test_defences import make

import parl_tf
from parl_tf.defences import METHODS


def optimized_graph(function, arguments, folder):
    """The largest of the graphs that TensorFlow runs for a function that has not run yet."""
    function.get_concrete_function(*arguments)  # traced first: making variables is left out
    tf.summary.trace_on(graph=True)
    function(*arguments)
    with tf.summary.create_file_writer(str(folder)).as_default():
        tf.summary.trace_export("step", step=0)
    graphs = []
    for record in tf.data.TFRecordDataset([str(path) for path in folder.iterdir()]):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            for content in value.tensor.string_val:
                metadata = tf.compat.v1.RunMetadata.FromString(content)
                graphs += [each.post_optimization_graph for each in metadata.function_graphs]
    return max(graphs, key=lambda graph: len(graph.node))


def inputs_of(node):
    return [name.lstrip("^").split(":")[0] for name in node.input]


def before(nodes, name):
    """Names of all nodes that run before one, whatever the machine."""
    found, left = set(), [name]
    while left:
        fresh = set(inputs_of(nodes[left.pop()])) - found
        found |= fresh
        left += fresh
    return found


def is_variable(node):
    return node.op == "_Arg" and node.attr["T"].type == tf.resource.as_datatype_enum


def uses_in_no_order(graph):
    """Writes of variables with another use that may run at the same time; and all writes."""
    nodes = {node.name: node for node in graph.node}
    users = {name: [] for name, node in nodes.items() if is_variable(node)}
    for node in graph.node:
        for variable in set(inputs_of(node)) & set(users):
            users[variable].append(node.name)
    before_each = functools.cache(functools.partial(before, nodes))
    writes, unordered = [], []
    for names in users.values():
        for write in names:
            if not nodes[write].op.startswith(("Assign", "ResourceApply")):
                continue
            writes.append(write)
            unordered += [
                (other, write)
                for other in names
                if other != write
                and other not in before_each(write)
                and write not in before_each(other)
            ]
    return unordered, writes


@pytest.mark.parametrize("method", slow_except(METHODS, "unprotected", "adp", "parl"))
@pytest.mark.parametrize(
    ("network", "crafting"),
    [
        pytest.param(residual_network, None, marks=pytest.mark.slow),
        (plain_network, {"num_steps": 2}),
    ],
)
def test_a_step_reads_a_variable_before_or_after_it_writes_it(method, network, crafting, tmp_path):
    ensemble = make(method, network=network, adversarial_training=crafting)
    ensemble.compile(parl_tf.FusedAdam(), logits_loss(), jit_compile=False)  # as the tools do
    ensemble.optimizer.build(ensemble.trainable_variables)
    step = tf.function(lambda images, labels: ensemble.train_step((images, labels)))
    batch = [tf.constant(part) for part in examples(6)]
    unordered, writes = uses_in_no_order(optimized_graph(step, batch, tmp_path))
    assert len(writes) > len(ensemble.trainable_variables)
    assert not unordered
