"""The unprotected training step in PyTorch; run by `peers.py`, with an interpreter that has it.

python benchmarks/torch_step.py {plain,channels_last,compiled} BATCH
"""

import sys
from collections.abc import Callable
from typing import Any

import turns

_MISSING = "PyTorch is missing: `pip install torch`, or name a Python that has it (--torch-python)"


def _network() -> Any:
    """A ResNet20 of the layers of `parl_tf.resnet20(10)`.

    One thing differs: strided 3x3 convolutions pad one pixel on every side instead of below and to
    the right, as PyTorch's users write it, which costs the same. Initial weights are PyTorch's.
    """
    from torch import nn

    def normalized(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1),
            nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01),
        )

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.first = normalized(inputs, outputs, stride)
            self.second = normalized(outputs, outputs)
            self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride)

        def forward(self, x: Any) -> Any:
            inner = self.second(self.first(x).relu())
            return (inner + self.shortcut(x)).relu()

    layers: list[nn.Module] = [normalized(3, 16), nn.ReLU()]
    inputs = 16
    for outputs in (16, 32, 64):
        for block in range(3):
            layers.append(Block(inputs, outputs, 2 if block == 0 and outputs > 16 else 1))
            inputs = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10)]
    return nn.Sequential(*layers)


def _make(kind: str, batch_size: int) -> tuple[Callable[[], Any], dict[str, Any]]:
    """The step, and what it is made of."""
    try:
        import torch
    except ImportError as error:
        raise RuntimeError(_MISSING) from error
    from torch import nn

    torch.manual_seed(0)
    members = nn.ModuleList(_network() for _ in range(3))
    images, labels = torch.rand(batch_size, 3, 32, 32), torch.randint(10, (batch_size,))
    if kind == "channels_last":
        members = members.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    kernels = [each.weight for each in members.modules() if isinstance(each, nn.Conv2d)]
    # Fused, as ours is; on processors Adam does not choose that by itself.
    optimizer = torch.optim.Adam(members.parameters(), lr=1e-3, eps=1e-7, fused=True)

    def loss(images: Any, labels: Any) -> Any:
        entropy = sum(nn.functional.cross_entropy(member(images), labels) for member in members)
        return entropy + 1e-4 * sum(kernel.square().sum() for kernel in kernels)

    forward = torch.compile(loss) if kind == "compiled" else loss

    def step() -> float:
        optimizer.zero_grad()
        found = forward(images, labels)
        found.backward()
        optimizer.step()
        return found.item()

    return step, {
        "parameters": sum(weight.numel() for weight in members.parameters()),
        "threads": torch.get_num_threads(),
        "version": torch.__version__,
    }


if __name__ == "__main__":
    turns.serve(lambda: _make(sys.argv[1], int(sys.argv[2])))
