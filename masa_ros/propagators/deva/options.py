# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The options of DEVA's propagation."""

from __future__ import annotations

import abc
import dataclasses

from masa_ros import options
from masa_ros.errors import ConfigError
from masa_ros.models.staged import precision_option
from masa_ros.options import option
from masa_ros.propagators.deva.placement import Placement


@dataclasses.dataclass(frozen=True)
class MemoryConfig(abc.ABC):
    """Options of the memory; raises ConfigError naming one that is wrong."""

    precision: str = precision_option()
    mem_every: int = option(5, 'every so many frames one is remembered', 1, 1000, live=True)
    top_k: int = option(
        30, 'the most similar places of the memory that are read', 1, 1000, live=True
    )
    max_mid: int = option(
        10, 'frames in the working memory at which it is condensed', 2, 1000, live=True
    )
    min_mid: int = option(
        5, 'frames that stay in it then: the first and the last', 1, 999, live=True
    )
    long_term: bool = option(
        True,
        'keep the most used places of the frames that leave the working memory',
        live=True,
    )
    prototypes: int = option(128, 'places that are kept each time', 1, 10_000, live=True)
    max_long: int = option(10_000, 'most of them that are held', 2, 1_000_000, live=True)
    chunk: int = option(
        0,
        'objects that run through the network at once',
        1,
        1000,
        special=(0, 'all'),
        live=True,
    )

    def __post_init__(self) -> None:
        """Check every value, and those that limit each other."""
        options.check(self)
        if self.min_mid >= self.max_mid:
            raise ConfigError(
                f'min_mid is {self.min_mid}; it must be below max_mid, which is {self.max_mid}'
            )
        if self.long_term and self.prototypes >= self.max_long:
            raise ConfigError(
                f'prototypes is {self.prototypes}; it must be below max_long, '
                f'which is {self.max_long}'
            )

    @abc.abstractmethod
    def placement(self, height: int, width: int) -> Placement:
        """Choose where a frame of this size lies in the network's input."""


@dataclasses.dataclass(frozen=True)
class DevaPropagatorConfig(MemoryConfig):
    """Options of DEVA's propagation; raises ConfigError naming one that is wrong."""

    weights: str = option('', "file of the network's weights; '' looks for the published one")
    size: int = option(
        480, 'short side that images are resized to, pixels', 16, 4096, special=(0, 'not at all')
    )
    resize: str = option(
        'demo',
        "how images are resized: as DEVA's demos do it, or its evaluation (with antialias)",
        choices=('demo', 'eval'),
    )

    def placement(self, height: int, width: int) -> Placement:
        """See ``MemoryConfig``."""
        antialias = self.resize == 'eval'
        short, long = sorted((height, width))
        if not self.size:
            return Placement(height, width, height, width, antialias)
        if self.resize == 'demo':
            scale = self.size / short
            return Placement(height, width, int(height * scale), int(width * scale), antialias)
        long = int(self.size * long / short)
        rows, columns = (self.size, long) if height <= width else (long, self.size)
        return Placement(height, width, rows, columns, antialias)
