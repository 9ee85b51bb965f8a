#!/usr/bin/env python3
# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Draw what masa_nano tracks in real recordings as one picture, docs/masa_nano.jpg."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import cv2
import numpy as np

from masa_ros import methods
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.errors import ImageError
from masa_ros.methods.masa import MasaConfig
from masa_ros.overlay import draw
from masa_ros.recordings.sources import open_source
from masa_ros.streams.stream import Stream

ROOT = Path(__file__).resolve().parent.parent
# Recordings whose licences allow it, named in docs/masa_nano.md, and the frames that are shown.
SHOWN = {
    'letter_blocks_hands': (12, 45),
    'bottles_hand_table': (12, 40),
    'shelf_box_objects': (8, 30),
    'highway_overpass': (12, 40),
    'parking_lot_topdown': (12, 45),
    'empty_room_people_entering': (10, 20),
}
TILE = (400, 225)  # width, height


def tiles(folder: Path, shown: tuple[int, ...], model: str, weights: str) -> list[np.ndarray]:
    """Track a recording and draw some of its frames."""
    stream = Stream(methods.load('masa', MasaConfig(DetectorConfig(model, weights=weights))))
    items = itertools.islice(open_source(folder), max(shown) + 1)
    frames = [item.frame for item in items if not isinstance(item.frame, ImageError)]
    chosen = [frames[number].stamp_ns for number in shown]
    results = [result for frame in frames for result in stream.track(frame)]
    drawn = []
    for frame, tracks, names in [*results, *stream.finish()]:
        if frame.stamp_ns in chosen:
            picture = draw(frame.image, tracks[tracks.present], names)
            scale = max(TILE[0] / picture.shape[1], TILE[1] / picture.shape[0])
            small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            top = (small.shape[0] - TILE[1]) // 2
            drawn.append(small[top : top + TILE[1], : TILE[0]])
    return drawn


def main() -> None:
    """Write the picture: a row for every two recordings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--data', type=Path, default=ROOT.parent / 'shared/data/sequences')
    parser.add_argument('--model', default='masa_nano')
    parser.add_argument('--weights', default='')
    parser.add_argument('--output', type=Path, default=ROOT / 'docs/masa_nano.jpg')
    arguments = parser.parse_args()
    made = [
        np.hstack(tiles(arguments.data / name, shown, arguments.model, arguments.weights))
        for name, shown in SHOWN.items()
    ]
    rows = [np.hstack(pair) for pair in zip(made[::2], made[1::2])]
    picture = cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(arguments.output), picture, [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == '__main__':
    main()
