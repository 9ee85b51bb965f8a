# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What methods share that carry masks from frame to frame with a propagator."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from masa_ros.detectors import DETECTORS
from masa_ros.detectors.prompted import Segmenter
from masa_ros.detectors.protocol import Detector
from masa_ros.errors import PromptError
from masa_ros.methods.deva.segments import most_probable, stacked
from masa_ros.methods.finding import Finding, FindingConfig
from masa_ros.methods.protocol import Log
from masa_ros.models.devices import choose_device
from masa_ros.options import Variant, option, variants
from masa_ros.propagators import PROPAGATORS
from masa_ros.propagators.protocol import Propagator
from masa_ros.types import Frame, Mask


def _propagators() -> dict[str, Variant]:
    return {name: Variant(kind.options, f'{name}.') for name, kind in PROPAGATORS.items()}


@dataclasses.dataclass(frozen=True)
class CarryingConfig(FindingConfig):
    """Options of both networks, see ``masa_ros.options``; ConfigError names a wrong one."""

    propagator: str = option(
        next(iter(PROPAGATORS)),
        'what carries masks from frame to frame',
        choices=lambda: tuple(PROPAGATORS),
    )
    carrier: Any = variants('propagator', _propagators)


def networks(chosen: CarryingConfig) -> tuple[Detector, Propagator[Any], str]:
    """Load what finds objects and what carries their masks on; returns also their device."""
    device = str(choose_device(chosen.device))
    propagator = PROPAGATORS[chosen.propagator].load(chosen.carrier, device)
    detector = DETECTORS[chosen.detector].load(chosen.finder, device)
    return detector, propagator, device


class Carrying(Finding):
    """The part of a ``Method`` that is about its networks and not about its rules.

    Parameters
    ----------
    detector: finds the objects; shared by all sessions, as is the propagator.
    propagator: carries their masks on.
    config: of the method; what concerns loading is taken as it is.
    device: where both run.
    log: takes lines about engines.
    segmenter: answers prompts; without one only words are understood, if those are.

    """

    loaded = ('detector', 'propagator')

    def __init__(
        self,
        detector: Detector,
        propagator: Propagator[Any],
        config: Any = None,
        device: str = 'cpu',
        log: Log = lambda text: None,
        segmenter: Segmenter | None = None,
    ) -> None:
        super().__init__(detector, config, device, log, segmenter)
        self.propagator = propagator
        self._compile('propagator', propagator, log)

    def encode(self, frames: Sequence[Frame]) -> list[Any]:
        """Run the propagator's image part; objects are looked for when it is time for it."""
        return self.propagator.encode(frames)

    def configure(self, options: Any) -> None:
        """Take new rules and thresholds; the networks and the objects stay."""
        super().configure(options)
        self.propagator.configure(options.carrier)

    def parts(self) -> dict[str, Mapping[str, Any]]:
        """Return what the networks tell of themselves, by what each is."""
        return {'propagator': self.propagator.facts(), **super().parts()}


def brought(
    propagator: Propagator[Any],
    source: tuple[Frame, Any],
    target: tuple[Frame, Any],
    masks: Sequence[Mask],
    device: str,
) -> list[Mask]:
    """Carry masks of a frame to another one, each by itself.

    Parameters
    ----------
    propagator: carries them.
    source, target: the frames, and what the propagator's ``encode`` made of them.
    masks: in the source.
    device: where the propagator runs.

    Raises
    ------
    PromptError
        Where the frames have not one size, or nothing of the masks is seen any more.

    """
    (frame, encoded), (other, there) = source, target
    if frame.stamp_ns == other.stamp_ns:
        return list(masks)
    if frame.shape != other.shape:
        raise PromptError('the images have changed their size since')
    now = []
    for mask in masks:
        memory = propagator.memory()
        memory.remember(encoded, [1], stacked([mask], frame.shape, device), certain=True)
        now.append(most_probable(memory.read(there), [1])[1])
    if not any(mask.width for mask in now):
        raise PromptError('it is not seen any more')
    return now
