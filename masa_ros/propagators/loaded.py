# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What every propagator holds: a network on its device, and what was loaded into it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from masa_ros import options
from masa_ros.models.files import fingerprint
from masa_ros.models.preprocess import normalise
from masa_ros.models.staged import Recorded, Staged
from masa_ros.models.stages import Case, Run
from masa_ros.models.upload import to_device

_STEP = 8  # pixels that an image moves, down and twice as far right, to test engines
_RADIUS = 0.35  # of the objects in it then, of a quarter's sides


class Loaded:
    """The part of a ``Propagator`` that is about its weights and options.

    Its memories look at both here, so that they follow when options change.

    Attributes
    ----------
    model: name of the network.
    network: on its device.
    config: options of the propagator.
    device: 'cpu', 'cuda:0', ...
    weights: what was loaded, for diagnostics.

    """

    model = ''
    network: Any
    config: Any
    device: str
    weights: str

    def configure(self, config: Any) -> None:
        """Take new options of the memory; what is read when a network is loaded stays as it is."""
        named = options.listed(type(config))
        loaded = {each.name: getattr(self.config, each.name) for each in named if not each.live}
        self.config = dataclasses.replace(config, **loaded)

    def facts(self) -> Mapping[str, Any]:
        """Return what was loaded: model, weights, parameters, device."""
        return {
            'model': self.model,
            'weights': self.weights,
            'parameters': sum(p.numel() for p in self.network.parameters()),
            'device': self.device,
        }


class InStages(Loaded, Staged):
    """A propagator whose network is compiled in stages; see ``masa_ros.engines.compilable``.

    Attributes
    ----------
    name: as users give it.
    whole: makes the place of a frame of (height, width) that is the network's input as it is.

    Parameters
    ----------
    network: of any sizes.
    config: of the propagator; weights are not looked at.
    device: 'cpu', 'cuda:0', ...
    weights: what was loaded, for diagnostics.

    """

    name = ''
    whole: Callable[[int, int, int, int], Any]

    def __init__(
        self, network: nn.Module, config: Any, device: str, weights: str = 'random'
    ) -> None:
        super().__init__(network, device, config.precision)
        self.config, self.weights = config, weights

    @classmethod
    def load(cls, config: Any, device: str) -> Any:
        """Build the network and read its weights; see ``PropagatorKind``."""
        raise NotImplementedError

    def loaded_in(self, precision: str) -> Any:
        """See ``Staged``."""
        return self.load(dataclasses.replace(self.config, precision=precision), self.device)

    def memory(self) -> Any:
        """Begin to remember; see ``Propagator``."""
        raise NotImplementedError

    def encoded(self, images: Tensor, place: Any, run: Mapping[str, Run]) -> Sequence[Any]:
        """Run the image encoder.

        Parameters
        ----------
        images: (B, 3, H, W) network inputs.
        place: of their frames in them.
        run: the stages.

        """
        raise NotImplementedError

    def case(self, image: NDArray[np.uint8]) -> Case:
        """Follow four objects of an image to the same one moved on; see ``Staged``."""
        height, width = image.shape[:2]
        further = np.roll(image, (_STEP, 2 * _STEP), (0, 1))
        pixels = [to_device(each, self.device).permute(2, 0, 1) for each in (image, further)]
        recorded, place = Recorded(self.eager), self.whole(height, width, height, width)
        first, second = self.encoded(normalise(torch.stack(pixels)), place, recorded.run)
        memory = self.memory()
        memory.remember(first, range(1, 5), _quarters(height, width).to(self.device))
        memory.read(second)
        return recorded.case()

    def facts(self) -> Mapping[str, Any]:
        """Return what was loaded, and in which precision it runs."""
        return {**super().facts(), 'precision': self.precision}


def _quarters(height: int, width: int) -> Tensor:
    """Return masks (5, height, width): the background, and an ellipse in every quarter."""
    masks = torch.zeros(5, height, width)
    y, x = torch.arange(height)[:, None], torch.arange(width)
    from_middle = ((2 * n / side % 1 - 0.5) for n, side in ((y, height), (x, width)))
    inside = sum(each.square() for each in from_middle) < _RADIUS**2
    quarter = 1 + 2 * (2 * y // height) + 2 * x // width
    return masks.scatter_(0, (quarter * inside)[None], 1.0)


def version(path: Path) -> str:
    """Return the name of a weights file and the start of its check sum."""
    return f'{path.name} sha256:{fingerprint(path)[:12]}'
