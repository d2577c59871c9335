"""Any functional Keras classifier as a multi-output model: logits and its first convolutions."""

from collections.abc import Collection, Sequence

import keras

from parl_tf.arguments import check_choice
from parl_tf.errors import InputError
from parl_tf.graphs.convolutions import check_open, convolves
from parl_tf.graphs.flattening import flattened, graph_part
from parl_tf.graphs.nodes import Node, nodes_behind

TAPS = ("activation", "convolution")

_ACTIVATION_LAYERS = (
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ELU,
    keras.layers.Activation,
)
# Operations that the functions of keras.ops leave in a functional graph.
_ACTIVATION_OPERATIONS = frozenset(
    (
        *("Relu", "ReLU", "Relu6", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Silu", "HardSilu"),
        *("Sigmoid", "HardSigmoid", "LogSigmoid", "Tanh", "HardTanh", "TanhShrink"),
        *("Softplus", "Softsign", "SoftShrink", "Squareplus"),
    )
)


def expose_layers(model: keras.Model, num_layers: int, *, tap: str = "activation") -> keras.Model:
    """Makes a model that returns its logits and the outputs of its first convolutions.

    Layers are shared with `model`, not copied. Convolutions are counted in graph order, including
    those of nested functional models and excluding those on shortcuts. A convolution is on a
    shortcut if it reaches an addition, with nothing but normalisation in between, whose other
    operand has more convolutions behind it.

    Args:
        model: Functional (or built sequential) Keras model with one input and one output.
        num_layers: Number of convolutions, at least 1.
        tap: What counts as a convolution's output. `"activation"`: the first activation after
            it, which for the last convolution of a residual block is the one after the addition.
            `"convolution"`: the raw convolution output.

    Returns:
        Functional model with the inputs of `model` and the outputs
        `[logits, output 1, ..., output num_layers]`.

    Raises:
        InputError: `model` is not as described; fewer convolutions than `num_layers`; one of them
            inside a layer or model with a `call` of its own; an unknown tap, or one whose input
            gradient would be zero.

    Example:
        >>> import parl_tf
        >>> network = parl_tf.resnet20(10, seed=0)
        >>> logits, stem, first = parl_tf.expose_layers(network, 2).outputs
        >>> first.shape
        (None, 32, 32, 16)

    Source: PARL, arXiv 2112.04948, section 4.2. The paper leaves open which output is meant.
    """
    outputs = layer_outputs(model, num_layers, tap=tap)
    return graph_part(model.inputs[0], [flattened(model).outputs[0], *outputs])


def layer_outputs(
    model: keras.Model, num_layers: int, *, tap: str | Sequence[str] = "activation"
) -> list[keras.KerasTensor]:
    """Finds the symbolic outputs of a model's first convolutions.

    Arguments and errors are those of `expose_layers`; a `tap` may be given for each convolution.

    Returns:
        `num_layers` symbolic tensors of the graph of `flattened(model)`, in graph order.
    """
    taps = [tap] * max(1, num_layers) if isinstance(tap, str) else tap
    for each in taps:
        check_tap(each)
    graph, nodes = _first_convolutions(model, num_layers)
    output_of = {"activation": graph.activation_after, "convolution": graph.raw_output}
    return [output_of[each](node) for node, each in zip(nodes, taps, strict=True)]


def main_convolutions(model: keras.Model, num_layers: int) -> list[keras.Layer]:
    """The layers that are a model's first convolutions, in graph order.

    Arguments and errors are those of `expose_layers`.
    """
    return [node.operation for node in _first_convolutions(model, num_layers)[1]]


def convolution_inputs(model: keras.Model, num_layers: int) -> list[keras.KerasTensor]:
    """Finds the symbolic inputs of a model's first convolutions, in graph order.

    Arguments and errors are those of `expose_layers`.
    """
    return [node.input_tensors[0] for node in _first_convolutions(model, num_layers)[1]]


def count_convolutions(model: keras.Model) -> int:
    """Number of convolutions on a model's main path, the most that can be compared.

    Args:
        model: As for `expose_layers`.

    Raises:
        InputError: `model` is not as described, has no convolution, or has some inside a layer or
            model with a `call` of its own.
    """
    found = _all_convolutions(model)[1]
    check_open(model, found)
    return len(found)


def _all_convolutions(model: keras.Model) -> tuple["_Graph", list[Node]]:
    """The graph of a model, and the nodes of the convolutions on its main path."""
    _check_functional(model)
    graph = _Graph(flattened(model))
    found = graph.main_convolutions()
    if not found:
        raise InputError(f"Expected a model with convolutions. Received: {model.name!r}.")
    return graph, found


def _first_convolutions(model: keras.Model, num_layers: int) -> tuple["_Graph", list[Node]]:
    """The graph of a model, and the nodes of its first convolutions in it."""
    graph, found = _all_convolutions(model)
    check_open(model, found[: max(num_layers, 0)])
    if not 1 <= num_layers <= len(found):
        raise InputError(
            f"Expected num_layers from 1 to {len(found)}, the convolutions on the main path of "
            f"model {model.name!r}. Received: {num_layers}."
        )
    return graph, found[:num_layers]


def distillation_outputs(model: keras.Model) -> list[keras.KerasTensor]:
    """Finds the symbolic outputs that DVERGE distils from, the logits last.

    Args:
        model: As for `expose_layers`.

    Returns:
        For each convolution on the main path the input of its activation: the convolution's output
        after normalisation and the addition of the shortcut. The convolution's own output where its
        activation is fused or missing. Then the logits.

    Raises:
        InputError: `model` is not as described, or has convolutions inside a layer or model with a
            `call` of its own.

    Source: DVERGE, arXiv 2009.14720, section 3.1.
    """
    _check_functional(model)
    flat = flattened(model)
    graph = _Graph(flat)
    nodes = graph.main_convolutions()
    check_open(model, nodes)
    return [*(graph.before_activation(node) for node in nodes), flat.outputs[0]]


def check_tap(tap: str) -> None:
    """Raises InputError unless `tap` says which output of a convolution to take."""
    if tap in ("batch_norm", "batch_normalization", "normalization"):
        raise InputError(
            "The output of a batch normalisation has a zero input gradient when summed: under "
            "batch statistics each channel's sum is a constant. "
            f"Expected tap to be one of {TAPS}. Received: {tap!r}."
        )
    check_choice("tap", tap, TAPS)


def _check_functional(model: object) -> None:
    """Raises unless `model` is a Keras model with a graph, one input and one output."""
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not isinstance(model, keras.Model) or not inputs or not outputs:
        raise InputError(
            "Expected a functional Keras model, or a sequential one that is built. "
            f"Received: {model!r}."
        )
    if len(inputs) != 1 or len(outputs) != 1:
        raise InputError(
            f"Expected a model with one input and one output. Received: {len(inputs)} inputs and "
            f"{len(outputs)} outputs in model {model.name!r}."
        )


class _Graph:
    """The nodes of a functional model, and which of them read each output."""

    def __init__(self, model: keras.Model) -> None:
        # Keys are the ids of nodes' output tensors; nodes in topological order.
        self._nodes = nodes_behind(model.outputs)
        self._readers: dict[int, list[Node]] = {}
        self._depths: dict[int, int] = {}  # most convolutions on a path from the input
        for key, node in self._nodes.items():
            depth = max((self._depths[id(t)] for t in node.input_tensors), default=0)
            self._depths[key] = depth + convolves(node)
            for tensor in node.input_tensors:
                self._readers.setdefault(id(tensor), []).append(node)

    def main_convolutions(self) -> list[Node]:
        """Nodes of the convolutions that are not on shortcuts, in graph order."""
        found = [
            (self._depths[key], position, node)
            for position, (key, node) in enumerate(self._nodes.items())
            if convolves(node) and not self._is_shortcut(node)
        ]
        return [node for _, _, node in sorted(found, key=lambda item: item[:2])]

    def _is_shortcut(self, node: Node) -> bool:
        """Whether `node` reaches an addition whose other side has more convolutions behind it."""
        tensor = node.output_tensors[0]
        while readers := self._readers.get(id(tensor)):
            if len(readers) != 1:
                return False
            reader = readers[0]
            if isinstance(reader.operation, keras.layers.Add) or _is_operation(reader, {"Add"}):
                depths = [self._depths[id(side)] for side in reader.input_tensors]
                return self._depths[id(tensor)] < max(depths)
            if convolves(reader) or _is_activation(reader):
                return False
            tensor = reader.output_tensors[0]
        return False

    def activation_after(self, node: Node) -> keras.KerasTensor:
        """The first activation that a convolution's output reaches."""
        activation = self._activation_node(node)
        if activation is None:
            raise InputError(
                f"No activation follows convolution {node.operation.name!r}; the sum of a "
                "normalised output before its activation has a zero input gradient. Expected "
                "a network with an activation there, or tap='convolution'."
            )
        return activation.output_tensors[0]

    def before_activation(self, node: Node) -> keras.KerasTensor:
        """The input of the first activation behind a convolution."""
        activation = self._activation_node(node)
        if activation is None or activation is node:
            return node.output_tensors[0]
        return activation.input_tensors[0]

    def _activation_node(self, node: Node) -> Node | None:
        """A convolution's own or nearest activation; None if a weighted layer comes first."""
        nearest = [node]
        while nearest:
            for candidate in nearest:
                if _is_activation(candidate):
                    return candidate
            outputs = [id(candidate.output_tensors[0]) for candidate in nearest]
            readers = [reader for key in outputs for reader in self._readers.get(key, [])]
            nearest = [r for r in readers if not _is_weighted(r)]
        return None

    def raw_output(self, node: Node) -> keras.KerasTensor:
        """A convolution's own output; raises if an activation is fused into the layer."""
        fused = getattr(node.operation, "activation", None)
        if fused not in (None, keras.activations.linear):
            raise InputError(
                f"Convolution {node.operation.name!r} applies its activation itself, so its raw "
                "output is not in the graph. Expected tap='activation', or a network whose "
                "activations are layers of their own."
            )
        return node.output_tensors[0]


def _is_weighted(node: Node) -> bool:
    """Whether a node is a convolution or a dense layer, behind which another layer begins."""
    return convolves(node) or isinstance(node.operation, keras.layers.Dense)


def _is_operation(node: Node, names: Collection[str]) -> bool:
    """Whether a node is a bare operation of keras.ops with one of the class names."""
    operation = node.operation
    return not isinstance(operation, keras.Layer) and type(operation).__name__ in names


def _is_activation(node: Node) -> bool:
    """Whether a node applies a nonlinearity: as a layer, fused into one, or an operation."""
    activation = getattr(node.operation, "activation", None)
    if activation is not None:  # softmax sums to a constant, so it is no better than none
        return activation not in (keras.activations.linear, keras.activations.softmax)
    return isinstance(node.operation, _ACTIVATION_LAYERS) or _is_operation(
        node, _ACTIVATION_OPERATIONS
    )
