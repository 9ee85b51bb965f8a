# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Half precision, and the islands that stay in float32.

Networks are typed explicitly, as TensorRT wants them: what is not cast here runs in the precision
of its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

_PRODUCTS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def _inputs_float(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.float() for x in inputs)


def _inputs_half(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.half() for x in inputs)


def _output_bfloat(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.bfloat16()


def _output_float(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.float()


def _output_half(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.half()


def _is_norm(module: nn.Module) -> bool:
    # SAM's channel norm is a class of its own: told by name, so that SAM need not be installed.
    return isinstance(module, (nn.LayerNorm, nn.GroupNorm)) or (
        type(module).__name__ == 'LayerNorm2d'
    )


def halve(network: nn.Module, dtype: torch.dtype = torch.float16) -> nn.Module:
    """Bring a network to half precision, float16 or bfloat16, in place.

    Islands: the norms that sum squares, which overflow above 256 in half precision, and the
    random Fourier features of SAM's prompts, which turn by the thousandth of a coordinate.
    Batch norm is a fixed scale when the network runs and becomes part of the convolution. Box
    arithmetic and softmax over classes are written in float32 where they stand.
    """
    network.to(dtype)
    back = _output_half if dtype == torch.float16 else _output_bfloat
    for module in network.modules():
        if _is_norm(module):
            module.float()
            module.register_forward_pre_hook(_inputs_float)
            module.register_forward_hook(back)
        elif type(module).__name__ == 'PositionEmbeddingRandom':
            module.float()
    return network


def mix(network: nn.Module) -> nn.Module:
    """Run convolutions and linear layers in half precision and everything between in float32.

    Slower than ``halve``, and safe where activations or attention logits leave the range or
    resolution of half precision. In place. Layers whose weights are read by others than
    themselves stay in float32: all in a module whose ``weights_are_read`` is true.
    """
    read = {
        inner
        for module in network.modules()
        if getattr(module, 'weights_are_read', False)
        for inner in module.modules()
    }
    for module in network.modules():
        if isinstance(module, _PRODUCTS) and module not in read:
            module.half()
            module.register_forward_pre_hook(_inputs_half)
            module.register_forward_hook(_output_float)
    return network


PRECISIONS: Mapping[str, Callable[[nn.Module], nn.Module]] = {
    'bf16': lambda network: halve(network, torch.bfloat16),
    'fp16': halve,
    'mixed': mix,
    'fp32': lambda network: network,
}
"""What brings a float32 network to a precision, least exact first."""


def at_least_float32(x: Tensor) -> Tensor:
    """Return a tensor in float32, or in float64 if it is: for sums that need either."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def storage(precision: str) -> torch.dtype:
    """Return the dtype of feature maps in a precision."""
    return {'bf16': torch.bfloat16, 'fp16': torch.float16}.get(precision, torch.float32)
