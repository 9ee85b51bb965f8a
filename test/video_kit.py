# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pictures encoded by real encoders, as the messages that carry video."""

import functools
from fractions import Fraction
from types import SimpleNamespace
from typing import NamedTuple

import av
import numpy as np
import pytest
from conftest import scene

STEP_NS = 10**8  # between two pictures
START_NS = 5 * 10**9  # stamp of the first
QUIET = {'libx265': {'x265-params': 'log-level=none'}}
ENCODERS = {
    'h264': ('libx264', {'preset': 'veryfast', 'crf': '18'}),
    'hevc': ('libx265', {'preset': 'ultrafast', 'crf': '18'}),
    'vp9': ('libvpx-vp9', {'lag-in-frames': '0', 'deadline': 'realtime', 'cpu-used': '8'}),
}


class Encoded(NamedTuple):
    """A packet: which picture it holds, in the order in which they are shown."""

    number: int
    key: bool
    data: bytes


def picture(number):
    return scene(shift=2 * number)


@functools.cache
def encoded(codec='h264', count=24, gop=8, b_frames=0, size=(240, 320), options=()):
    """``count`` moving pictures as packets in the order of decoding; skips without the encoder."""
    name, chosen = ENCODERS[codec]
    chosen = {**chosen, **dict(options)}
    if codec == 'hevc':
        chosen['x265-params'] = f'log-level=none:bframes={b_frames}:open-gop=0'
    try:
        encoder = av.CodecContext.create(name, 'w')
    except ValueError:
        pytest.skip(f'this PyAV has no encoder {name}')
    encoder.height, encoder.width = size
    encoder.pix_fmt, encoder.time_base = 'yuv420p', Fraction(1, 10)
    encoder.framerate, encoder.gop_size, encoder.max_b_frames = Fraction(10), gop, b_frames
    encoder.options = chosen
    packets = []
    for number in range(count):
        frame = av.VideoFrame.from_ndarray(scene(2 * number, size), format='rgb24')
        frame.pts = number
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    return [Encoded(packet.pts, bool(packet.is_keyframe), bytes(packet)) for packet in packets]


def stamp_of(number):
    return START_NS + number * STEP_NS


def fields(packet, encoding='h264;yuv420p;bgr8;bgr8', size=(240, 320)):
    """The fields of an FFMPEGPacket beside its header."""
    return {
        **{'height': size[0], 'width': size[1], 'encoding': encoding, 'is_bigendian': False},
        **{'pts': packet.number, 'flags': int(packet.key)},
    }


def plain(packet, encoding='h264;yuv420p;bgr8;bgr8'):
    """An FFMPEGPacket without ROS and without a bag."""
    stamp = SimpleNamespace(sec=packet.number, nanosec=0)
    data = np.frombuffer(packet.data, np.uint8)
    header = SimpleNamespace(stamp=stamp, frame_id='camera')
    return SimpleNamespace(header=header, data=data, **fields(packet, encoding))


def plain_video(packet, codec='h264'):
    """A CompressedVideo without ROS and without a bag."""
    stamp = SimpleNamespace(sec=packet.number, nanosec=0)
    data = np.frombuffer(packet.data, np.uint8)
    return SimpleNamespace(timestamp=stamp, frame_id='camera', data=data, format=codec)


def matched(expected, found, frames):
    """Compare the tracks of two recordings of one scene, ``Instances`` of every frame.

    Returns
    -------
    Numbers of tracks in each, and the smallest mean IoU of a track with the one that it is most
    often nearest to, each taken once.

    """
    ids = [sorted({i for f in side for i in f.track_ids.tolist()}) for side in (expected, found)]
    overlaps = np.zeros((len(ids[0]), len(ids[1]), frames))
    for t, (a, b) in enumerate(zip(expected, found)):
        for i, box in zip(a.track_ids.tolist(), a.boxes):
            for j, other in zip(b.track_ids.tolist(), b.boxes):
                low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])
                inner = np.prod(np.maximum(high - low, 0))
                union = np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2]) - inner
                overlaps[ids[0].index(i), ids[1].index(j), t] = inner / union
    seen = np.array([[i in f.track_ids for f in expected] for i in ids[0]])
    means = overlaps.sum(2) / np.maximum(seen.sum(1), 1)[:, None]
    best = means.argmax(1)
    once = len(set(best.tolist())) == len(best)
    return len(ids[0]), len(ids[1]), float(means.max(1).min()) if once and len(best) else 0.0
