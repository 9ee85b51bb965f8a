# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The images that engines are compared with PyTorch on: those of the package, and own ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from masa_ros.errors import ConfigError

_BUILT_IN = Path(__file__).parent / 'calibration'
_SUFFIXES = ('.jpg', '.jpeg', '.png')
_MOST_OWN = 20


def calibration_files(folder: str = '') -> list[Path]:
    """Return the files: those of the package, then the first ones of a folder.

    Raises
    ------
    ConfigError
        When the folder has no image.

    """
    files = sorted(_BUILT_IN.glob('*.jpg'))
    if folder:
        every = Path(folder).expanduser().glob('*')
        own = sorted(path for path in every if path.suffix.lower() in _SUFFIXES)
        if not own:
            raise ConfigError(f'calibration: no image (jpg, png) in {folder}')
        files += own[:_MOST_OWN]
    return files


def calibration_images(shape: tuple[int, int], folder: str = '') -> Sequence[NDArray[np.uint8]]:
    """Return the images, RGB, (height, width) = ``shape``.

    Raises
    ------
    ConfigError
        When the folder has no image, or a file is none.

    """
    images = []
    for file in calibration_files(folder):
        image = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if image is None:
            raise ConfigError(f'calibration: {file} is not an image')
        image = cv2.resize(image, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
        images.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    return images


def calibration_version(folder: str = '') -> str:
    """Hash of the content of the files, whatever they are called."""
    digest = hashlib.sha256()
    for file in calibration_files(folder):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
