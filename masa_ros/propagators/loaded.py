# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What every propagator holds: a network on its device, and what was loaded into it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from masa_ros import options
from masa_ros.models.files import fingerprint


class Loaded:
    """The part of a ``Propagator`` that is about its weights and options.

    Its memories look at both here, so that they follow when options change.

    Parameters
    ----------
    network: of any sizes.
    config: of the propagator; weights are not looked at.
    device: 'cpu', 'cuda:0', ...
    weights: what was loaded, for diagnostics.

    """

    model = ''
    network: Any
    config: Any

    def __init__(
        self, network: nn.Module, config: Any, device: str, weights: str = 'random'
    ) -> None:
        self.network = network.eval().to(device).to(memory_format=torch.channels_last)
        self.config, self.device, self.weights = config, device, weights

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights, and of what is computed with them."""
        made: torch.dtype = next(self.network.parameters()).dtype
        return made

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


def version(path: Path) -> str:
    """Return the name of a weights file and the start of its check sum."""
    return f'{path.name} sha256:{fingerprint(path)[:12]}'
