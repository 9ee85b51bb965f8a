#!/usr/bin/env python3
# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Write the photographs that engines are checked on: public domain and CC0, from scikit-image."""

from pathlib import Path

import cv2
import skimage.data

FOLDER = Path(__file__).resolve().parent.parent / 'masa_ros' / 'engines' / 'calibration'


def main() -> None:
    """Write them all."""
    FOLDER.mkdir(exist_ok=True)
    for name in ('astronaut', 'chelsea', 'coffee'):
        image = cv2.cvtColor(getattr(skimage.data, name)(), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(FOLDER / f'{name}.jpg'), image, [cv2.IMWRITE_JPEG_QUALITY, 80])


if __name__ == '__main__':
    main()
