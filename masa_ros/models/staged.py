# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A network in stages and what runs them: most of ``masa_ros.engines.compilable.Compilable``."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from masa_ros.errors import ConfigError
from masa_ros.models.precision import PRECISIONS, storage
from masa_ros.models.stages import Case, Eager, Run, Runs, Stage, Tensors
from masa_ros.options import option


def precision_option(default: str = 'auto') -> Any:
    """Return the option of every network that has stages, see ``Staged``."""
    return option(
        default,
        'arithmetic of the network; auto: fp16 on a GPU; on a CPU fp32, for engines bf16 where it '
        'agrees and is faster; mixed: fp16 for convolutions and linear layers alone; bf16: for '
        'engines on a CPU',
        choices=('auto', *PRECISIONS),
    )


class Staged:
    """A network on its device, brought to a precision and cut into stages.

    Parameters
    ----------
    network: in float32; in float64 it stays so.
    device: 'cpu', 'cuda:0', ...
    precision: one of ``PRECISIONS``, or 'auto'.

    Attributes
    ----------
    name: of the network; tells users whose engines lie on the disk.
    network, device: as given.
    precision: in which it runs; bfloat16 is left to engines, which are checked.
    asked: as given.
    stages: the pieces of the network as modules, by name. One named 'image' sees images alone,
        with the input 'images' (1, 3, H, W).
    eager: what runs them by plain PyTorch.
    runs: what runs them, asked with the size of every input.

    """

    name: str
    network: Any

    def __init__(self, network: nn.Module, device: str, precision: str = 'auto') -> None:
        self.device = device
        self.asked = self.precision = precision
        if precision in ('auto', 'bf16'):
            self.precision = 'fp16' if device.startswith('cuda') else 'fp32'
        self.network = network.eval().to(device).to(memory_format=torch.channels_last)
        exact = next(network.parameters()).dtype
        PRECISIONS[self.precision](self.network)
        self.stages: Mapping[str, Stage] = self.stages_of(self.network)
        self.dtype = exact if self.precision == 'fp32' else storage(self.precision)
        self.eager: Mapping[str, Run] = {
            name: Eager(stage, self.dtype) for name, stage in self.stages.items()
        }
        self.runs: Runs = self._run_eagerly

    def stages_of(self, network: Any) -> Mapping[str, Stage]:
        """Return the stages of a network by name; they share its parameters."""
        raise NotImplementedError

    def input_shape(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of the input for images of this size."""
        raise NotImplementedError

    @torch.inference_mode()
    def cases(self, images: Sequence[NDArray[np.uint8]]) -> list[Case]:
        """Run all stages eagerly on (H, W, 3) uint8 RGB images of the size of network inputs."""
        return [self.case(image) for image in images]

    def case(self, image: NDArray[np.uint8]) -> Case:
        """Do the same with one; nothing is learned from it."""
        raise NotImplementedError

    def _run_eagerly(self, shape: tuple[int, int]) -> Mapping[str, Run]:
        return self.eager

    def image_stage(self, images: Tensor, run: Mapping[str, Run]) -> list[dict[str, Tensor]]:
        """Run the stage 'image' on images (B, 3, H, W): its outputs, (1, ...) each, by image.

        Eagerly they are one batch; engines take one after the other.
        """
        if run is not self.eager:  # engines are built for one image
            return [run['image'](images=image) for image in images.split(1)]
        made = run['image'](images=images)
        return [
            {name: value[i : i + 1] for name, value in made.items()} for i in range(len(images))
        ]

    def reference(self) -> Any:
        """Return the same network in float32, run by plain PyTorch.

        Raises
        ------
        WeightsError
            When its weights are not there any more.

        """
        return self if self.precision == 'fp32' else self.loaded_in('fp32')

    def loaded_in(self, precision: str) -> Any:
        """Load the same weights in another precision; raises WeightsError."""
        raise NotImplementedError

    def stages_in(self, precision: str) -> Mapping[str, Stage]:
        """Return the stages of a copy of a float32 network, brought to a precision."""
        network = copy.deepcopy(self.network)
        PRECISIONS[precision](network)
        return self.stages_of(network)


class Recorded:
    """What runs the stages of a network by plain PyTorch, and remembers the last use of each."""

    def __init__(self, eager: Mapping[str, Run]) -> None:
        self._inputs: dict[str, Tensors] = {}
        self._outputs: dict[str, Tensors] = {}
        self.run: Mapping[str, Run] = {
            name: self._recorded(name, run) for name, run in eager.items()
        }

    def _recorded(self, name: str, run: Run) -> Run:
        def recorded(**tensors: Tensor) -> dict[str, Tensor]:
            found = run(**tensors)
            self._inputs[name], self._outputs[name] = tensors, dict(found)
            return found

        return recorded

    def case(self) -> Case:
        """Return what every stage was given, and gave."""
        return Case(self._inputs, self._outputs)


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ConfigError for a precision that a device does not have."""
    if precision in ('fp16', 'mixed') and device.type == 'cpu':
        raise ConfigError(
            f'precision {precision} needs a CUDA device; on the CPU take fp32, bf16 or auto'
        )
    if precision == 'bf16' and device.type != 'cpu':
        raise ConfigError('precision bf16 is for the CPU; on a CUDA device take fp16 or auto')
