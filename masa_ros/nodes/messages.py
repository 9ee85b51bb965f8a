"""Between the package's own values and ROS messages."""

from __future__ import annotations

import array
import contextlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import ImageMarker

from masa_ros.masks import mask_from_msg, msg_fields
from masa_ros.msg import TrackedInstance, TrackedInstanceArray
from masa_ros.overlay import colour_of
from masa_ros.types import Instances

VISION: Any = None  # vision_msgs.msg; ROS installations have it, the wheels do not
with contextlib.suppress(ImportError):
    VISION = importlib.import_module('vision_msgs.msg')
STATISTICS: Any = None  # statistics_msgs.msg; likewise
with contextlib.suppress(ImportError):
    STATISTICS = importlib.import_module('statistics_msgs.msg')


def stamp_to_ns(stamp: Time) -> int:
    """Nanoseconds of a ROS time."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def ns_to_stamp(nanoseconds: int) -> Time:
    """ROS time of nanoseconds."""
    return Time(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)


def tracks_to_msg(
    tracks: Instances,
    header: Header,
    shape: tuple[int, int],
    model: str,
    embeddings: bool = False,
    class_names: Mapping[int, str] = MappingProxyType({}),
) -> TrackedInstanceArray:
    """Build the message of one frame; ``shape`` is (height, width) of its image."""
    message = TrackedInstanceArray(
        header=header, image_height=shape[0], image_width=shape[1], model=model
    )
    instances = []
    for i in range(len(tracks)):
        x_min, y_min, x_max, y_max = tracks.boxes[i].tolist()
        instances.append(
            TrackedInstance(
                track_id=int(tracks.track_ids[i]),
                state=int(tracks.states[i]),
                class_id=int(tracks.labels[i]),
                class_name=class_names.get(int(tracks.labels[i]), ''),
                score=float(tracks.scores[i]),
                x_min=x_min,
                y_min=y_min,
                x_max=x_max,
                y_max=y_max,
                first_seen=ns_to_stamp(int(tracks.first_seen_ns[i])),
                frames_since_seen=int(tracks.frames_since_seen[i]),
                embedding=array.array('f', tracks.embeddings[i].tobytes() if embeddings else b''),
                **msg_fields(tracks.masks[i] if tracks.masks is not None else None),
            )
        )
    message.instances = instances
    return message


def tracks_from_msg(message: TrackedInstanceArray) -> Instances:
    """Return the instances of a message; embeddings are empty unless the message has them."""
    items: list[Any] = list(message.instances)
    size = max((len(i.embedding) for i in items), default=0)
    embeddings = np.zeros((len(items), size), np.float32)
    for row, item in zip(embeddings, items):
        row[: len(item.embedding)] = item.embedding
    return Instances(
        boxes=np.array([(i.x_min, i.y_min, i.x_max, i.y_max) for i in items], np.float32).reshape(
            -1, 4
        ),
        scores=np.array([i.score for i in items], np.float32),
        labels=np.array([i.class_id for i in items], np.int32),
        embeddings=embeddings,
        masks=tuple(mask_from_msg(i) for i in items),
        track_ids=np.array([i.track_id for i in items], np.int64),
        states=np.array([i.state for i in items], np.uint8),
        first_seen_ns=np.array([stamp_to_ns(i.first_seen) for i in items], np.int64),
        frames_since_seen=np.array([i.frames_since_seen for i in items], np.int32),
    )


def tracks_to_marker(tracks: Instances, header: Header) -> ImageMarker:
    """Build the outlines of the boxes in the colours of their ids, for viewers of images."""
    points: list[Point] = []
    colours: list[ColorRGBA] = []
    for box, track_id in zip(tracks.boxes.tolist(), tracks.track_ids.tolist()):
        x0, y0, x1, y1 = box
        corners = [Point(x=x, y=y) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
        red, green, blue = (value / 255 for value in colour_of(track_id))
        for i in range(4):
            points += [corners[i], corners[(i + 1) % 4]]
            colours.append(ColorRGBA(r=red, g=green, b=blue, a=1.0))
    marker = ImageMarker(header=header, ns='masa_ros', scale=2.0, points=points)
    marker.type, marker.action = ImageMarker.LINE_LIST, ImageMarker.ADD
    marker.outline_colors = colours
    return marker


def tracks_to_detections(
    tracks: Instances, header: Header, class_names: Mapping[int, str] = MappingProxyType({})
) -> Any:
    """Build the boxes as vision_msgs/Detection2DArray, the track ids as ids of detections."""
    message = VISION.Detection2DArray(header=header)
    for i in range(len(tracks)):
        x0, y0, x1, y1 = tracks.boxes[i].tolist()
        detection = VISION.Detection2D(header=header, id=str(tracks.track_ids[i]))
        centre = detection.bbox.center
        at = getattr(centre, 'position', centre)  # before vision_msgs 4 a plain Pose2D
        at.x, at.y = (x0 + x1) / 2, (y0 + y1) / 2
        detection.bbox.size_x, detection.bbox.size_y = x1 - x0, y1 - y0
        label = int(tracks.labels[i])
        result = VISION.ObjectHypothesisWithPose()
        result.hypothesis.class_id = class_names.get(label, str(label) if label >= 0 else '')
        result.hypothesis.score = float(tracks.scores[i])
        detection.results.append(result)
        message.detections.append(detection)
    return message


def ages_to_metrics(ages_ms: Sequence[float], source: str, start: Time, stop: Time) -> Any:
    """Build the statistics_msgs/MetricsMessage that rclcpp publishes for its subscriptions too."""
    kinds = STATISTICS.StatisticDataType
    points: list[tuple[int, Callable[[Any], Any]]] = [
        (kinds.STATISTICS_DATA_TYPE_AVERAGE, np.mean),
        (kinds.STATISTICS_DATA_TYPE_MINIMUM, np.min),
        (kinds.STATISTICS_DATA_TYPE_MAXIMUM, np.max),
        (kinds.STATISTICS_DATA_TYPE_STDDEV, np.std),
        (kinds.STATISTICS_DATA_TYPE_SAMPLE_COUNT, np.size),
    ]
    return STATISTICS.MetricsMessage(
        measurement_source_name=source,
        metrics_source='message_age',
        unit='ms',
        window_start=start,
        window_stop=stop,
        statistics=[
            STATISTICS.StatisticDataPoint(data_type=kind, data=float(of(ages_ms)))
            for kind, of in points
        ],
    )


def array_to_image(pixels: NDArray[np.generic], encoding: str, header: Header) -> Image:
    """Build an image message from (H, W) or (H, W, C) pixels in the machine's byte order."""
    pixels = np.ascontiguousarray(pixels)
    data = array.array('B')
    # rclpy takes an array.array over whole; every other type is checked byte by byte.
    data.frombytes(pixels.data.cast('B'))
    return Image(
        header=header,
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=pixels.strides[0],
        data=data,
    )


def label_mask(tracks: Instances, shape: tuple[int, int]) -> NDArray[np.uint16]:
    """Return (H, W) uint16: the track id modulo 65536 at every pixel, 0 where there is none.

    Where masks overlap the better scored track is seen.
    """
    labels = np.zeros(shape, np.uint16)
    for i in reversed(range(len(tracks))):
        mask = tracks.masks[i] if tracks.masks is not None else None
        if mask is not None:
            rows, columns = mask.height, mask.width
            window = labels[mask.y : mask.y + rows, mask.x : mask.x + columns]
            window[mask.pixels] = int(tracks.track_ids[i]) & 0xFFFF
    return labels
