# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""rosbag2 recordings without ROS, by the libraries ``rosbags`` and ``mcap``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from mcap.reader import NonSeekingReader
from mcap.writer import CompressionType, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from masa_ros.masks import msg_fields
from masa_ros.share import share_path
from masa_ros.types import Result, class_name

TRACKS_TYPE = 'masa_ros/msg/TrackedInstanceArray'
IMAGE_TYPE = 'sensor_msgs/msg/Image'
COMPRESSED_TYPE = 'sensor_msgs/msg/CompressedImage'
PACKET_TYPE = 'ffmpeg_image_transport_msgs/msg/FFMPEGPacket'
VIDEO_TYPE = 'foxglove_msgs/msg/CompressedVideo'
# For recordings that do not hold the definitions of their messages.
_VIDEO_DEFINITIONS = {
    PACKET_TYPE: 'std_msgs/Header header\nint32 width\nint32 height\nstring encoding\nuint64 pts\n'
    'uint8 flags\nbool is_bigendian\nuint8[] data',
    VIDEO_TYPE: 'builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format',
}
_CHUNK = 1 << 18  # bytes


def typestore() -> Typestore:
    """Return the standard messages together with those of this package and those of video."""
    # The standard messages used here are the same in every distribution since Humble.
    store = get_typestore(Stores.ROS2_HUMBLE)
    for name in ('TrackedInstance', 'TrackedInstanceArray'):
        definition = share_path(f'msg/{name}.msg').read_text()
        store.register(get_types_from_msg(definition, f'masa_ros/msg/{name}'))
    for kind, definition in _VIDEO_DEFINITIONS.items():
        store.register(get_types_from_msg(definition, kind))
    return store


def interrupted(path: Path) -> Iterator[tuple[str, str, bytes, int]]:
    """Give topic, type, CDR bytes and time of every message of an MCAP file without an end.

    That is what a recorder leaves that was killed or lost its power: whole chunks, the last one
    perhaps cut off. Nothing is given of a file that is no MCAP.
    """
    largest = path.stat().st_size
    # Damaged bytes make the reader raise anything; what came before them is good.
    with path.open('rb') as file, contextlib.suppress(Exception):
        reader = NonSeekingReader(file, record_size_limit=largest)
        for schema, channel, message in reader.iter_messages(log_time_order=False):
            if schema is not None:
                yield channel.topic, schema.name, message.data, message.log_time


class BagWriter:
    """Write one topic to a single MCAP file, schema included.

    A chunk is on disk as soon as it is full: whatever happens to the process, the file can be
    read up to there.
    """

    def __init__(self, path: Path, topic: str, message_type: str) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._store = typestore()
        self._types = self._store.types
        self._type = message_type
        self._file = path.open('wb')
        self._writer = Writer(self._file, chunk_size=_CHUNK, compression=CompressionType.NONE)
        self._writer.start(profile='ros2', library='masa_ros')
        definition, _ = self._store.generate_msgdef(message_type, ros_version=2)
        schema = self._writer.register_schema(message_type, 'ros2msg', definition.encode())
        metadata = {'offered_qos_profiles': ''}
        self._channel = self._writer.register_channel(topic, 'cdr', schema, metadata)

    def __enter__(self) -> BagWriter:
        """Return the open writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write the end of the file, after an error too: what there is shall be readable."""
        with contextlib.suppress(*((OSError,) if kind is not None else ())):
            self._writer.finish()
        self._file.close()

    def _header(self, stamp_ns: int, frame_id: str) -> Any:
        time = self._types['builtin_interfaces/msg/Time'](
            sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000
        )
        return self._types['std_msgs/msg/Header'](stamp=time, frame_id=frame_id)

    def write_image(
        self, image: np.ndarray, stamp_ns: int, frame_id: str, arrived_ns: int | None = None
    ) -> None:
        """Add an (H, W, 3) uint8 RGB image, recorded at its stamp or when it arrived."""
        message = self._types[IMAGE_TYPE](
            header=self._header(stamp_ns, frame_id),
            height=image.shape[0],
            width=image.shape[1],
            encoding='rgb8',
            is_bigendian=0,
            step=image.shape[1] * 3,
            data=np.ascontiguousarray(image).reshape(-1),
        )
        self._write(message, stamp_ns if arrived_ns is None else arrived_ns)

    def write_tracks(self, result: Result, model: str) -> None:
        """Add the tracks of an image under its header."""
        tracks, frame = result.tracks, result.frame
        none = {
            'mask_x': 0,
            'mask_y': 0,
            'mask_width': 0,
            'mask_height': 0,
            'mask_counts': np.zeros(0, np.uint32),
        }
        instances = []
        for i in range(len(tracks)):
            mask = none | msg_fields(tracks.masks[i] if tracks.masks is not None else None)
            mask['mask_counts'] = np.asarray(mask['mask_counts'], np.uint32)
            x_min, y_min, x_max, y_max = tracks.boxes[i].tolist()
            first = int(tracks.first_seen_ns[i])
            instances.append(
                self._types['masa_ros/msg/TrackedInstance'](
                    track_id=int(tracks.track_ids[i]),
                    state=int(tracks.states[i]),
                    class_name=class_name(int(tracks.labels[i]), result.class_names),
                    class_id=int(tracks.labels[i]),
                    name=tracks.names[i],
                    score=float(tracks.scores[i]),
                    x_min=x_min,
                    y_min=y_min,
                    x_max=x_max,
                    y_max=y_max,
                    first_seen=self._types['builtin_interfaces/msg/Time'](
                        sec=first // 1_000_000_000, nanosec=first % 1_000_000_000
                    ),
                    frames_since_seen=int(tracks.frames_since_seen[i]),
                    embedding=np.zeros(0, np.float32),
                    **mask,
                )
            )
        message = self._types[TRACKS_TYPE](
            header=self._header(frame.stamp_ns if frame.stamped else 0, frame.frame_id),
            image_height=frame.shape[0],
            image_width=frame.shape[1],
            model=model,
            instances=instances,
        )
        self._write(message, frame.stamp_ns)

    def _write(self, message: Any, stamp_ns: int) -> None:
        data = bytes(self._store.serialize_cdr(message, self._type))
        self._writer.add_message(self._channel, stamp_ns, data, stamp_ns)
        self._file.flush()  # costs nothing until a chunk is full
