# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What a detector is, and what it takes for an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from masa_ros.errors import ImageError
from masa_ros.types import Frame, Instances


class Detector(Protocol):
    """Finds what is in single images, and remembers nothing between them.

    Attributes
    ----------
    takes_words: whether ``words`` say what is to be found; otherwise they are ignored.

    """

    takes_words: bool

    def detect(self, frames: Sequence[Frame], words: Sequence[str] = ()) -> list[Instances]:
        """Return untracked instances of every frame, best score first, boxes in image pixels.

        Raises
        ------
        ImageError
            When a frame is no RGB image.

        """
        ...

    def check_words(self, words: Sequence[str]) -> None:
        """Raise ConfigError for words, or none, by which ``detect`` cannot find anything."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """Return what was loaded, for diagnostics."""
        ...


@runtime_checkable
class Companion(Detector, Protocol):
    """A detector that may read the backbone of the network that embeds.

    Attributes
    ----------
    shares: whether it does.

    """

    shares: bool

    def find(self, encoded: Sequence[Any], words: Sequence[str] = ()) -> list[Instances]:
        """Do what ``detect`` does with what ``MasaDetector.encode`` made of the frames."""
        ...


class DetectorKind(NamedTuple):
    """A line of the registry of detectors.

    Attributes
    ----------
    options: its class of options.
    load: makes it of them, to run on a device; raises ConfigError or WeightsError.
    beside: makes it of them and of the network that embeds, a ``MasaDetector``, whose backbone it
        then reads; answers None where the two have no backbone in common.

    """

    options: type
    load: Callable[[Any, str], Detector]
    beside: Callable[[Any, Any], Companion | None] = lambda options, network: None


def check_images(images: Sequence[NDArray[np.uint8]]) -> None:
    """Raise ImageError where images are not (H, W, 3) uint8 pixels, all of one size."""
    for image in images:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ImageError(f'expected (H, W, 3) uint8 pixels, got {image.shape} {image.dtype}')
        if image.shape != images[0].shape:
            raise ImageError(f'a batch of images {image.shape} and {images[0].shape}')
