# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Between the package's own values and ROS messages."""

from __future__ import annotations

import array
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import ImageMarker, Marker, MarkerArray

from masa_ros.masks import mask_from_msg, msg_fields
from masa_ros.msg import TrackedInstance, TrackedInstanceArray
from masa_ros.nodes.optics import rays
from masa_ros.overlay import caption, colour_in, colour_of, ink_on, outlines
from masa_ros.types import Frame, Instances, Prompt, class_name


def _optional(name: str) -> Any:
    """Return a module of messages, None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


# ROS installations have these, or can; the wheels do not.
VISION = _optional('vision_msgs.msg')
STATISTICS = _optional('statistics_msgs.msg')
FOXGLOVE = _optional('foxglove_msgs.msg')

_UNLABELED = 65535  # in vision_msgs/VisionClass: no class
_LIFETIME = Duration(sec=2)  # of markers in RViz
_POINT: Any = np.dtype(
    [
        *(('x', 'f4'), ('y', 'f4'), ('z', 'f4')),
        *(('track_id', 'u4'), ('visible', 'u1'), ('positive', 'u1'), ('', 'V2')),
    ]
)
_FIELD_KINDS = {'f4': PointField.FLOAT32, 'u4': PointField.UINT32, 'u1': PointField.UINT8}
_LINE, _LETTER = 0.003, 0.03  # metres at a distance of one: width of lines, height of text


def stamp_to_ns(stamp: Time) -> int:
    """Nanoseconds of a ROS time."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def ns_to_stamp(nanoseconds: int) -> Time:
    """ROS time of nanoseconds."""
    return Time(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)


def header_of(frame: Frame) -> Header:
    """Header of an image, as it came: without a stamp where the camera gave none."""
    stamp = ns_to_stamp(frame.stamp_ns if frame.stamped else 0)
    return Header(stamp=stamp, frame_id=frame.frame_id)


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
                class_name=class_name(int(tracks.labels[i]), class_names),
                name=tracks.names[i],
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


def prompt_fields(prompt: Prompt, stamp: Time) -> dict[str, Any]:
    """Return the fields that requests of AddObject and CorrectObject have in common."""
    return {
        'stamp': stamp,
        'points': prompt.points.ravel().tolist(),
        'positive': prompt.positive.tolist(),
        'box': [] if prompt.box is None else prompt.box.tolist(),
        'name': prompt.name,
        **msg_fields(prompt.mask),
    }


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
        names=tuple(i.name for i in items),
    )


def tracks_to_points(tracks: Instances, header: Header) -> PointCloud2:
    """Build the cloud of the points that tracks are followed by, in pixels of their image.

    As in clicks of viewers, z = 0 says that x and y are pixels. Fields: x, y, z (float32),
    track_id (uint32: modulo 2^32), visible, positive (uint8: 1, or 0 where it is not; a point that
    is not positive lies beside the object).
    """
    followed = [
        (track_id % (1 << 32), each)
        for track_id, each in zip(tracks.track_ids.tolist(), tracks.points or ())
        if each is not None
    ]
    rows = np.zeros(sum(len(each.points) for _, each in followed), _POINT)
    parts = np.split(rows, np.cumsum([len(each.points) for _, each in followed])[:-1])
    for part, (track_id, each) in zip(parts, followed):
        part['x'], part['y'] = each.points.T
        part['track_id'] = track_id
        part['visible'], part['positive'] = each.visible, each.positive
    return cloud_of(rows, header)


def cloud_of(rows: NDArray[np.void], header: Header) -> PointCloud2:
    """Build a cloud in no order of points (N,) whose fields are float32, uint32 or uint8.

    Fields of raw bytes are padding.
    """
    kind: Any = rows.dtype
    fields = [
        PointField(name=name, offset=offset, datatype=_FIELD_KINDS[base.str[1:]], count=1)
        for name, (base, offset) in ((name, kind.fields[name][:2]) for name in kind.names)
        if base.kind != 'V'
    ]
    return PointCloud2(
        header=header,
        height=1,
        width=len(rows),
        fields=fields,
        point_step=kind.itemsize,
        row_step=rows.nbytes,
        data=array.array('B', rows.tobytes()),
        is_bigendian=sys.byteorder == 'big',
        is_dense=True,
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
        result = VISION.ObjectHypothesisWithPose()
        result.hypothesis.class_id = class_name(int(tracks.labels[i]), class_names)
        result.hypothesis.score = float(tracks.scores[i])
        detection.results.append(result)
        message.detections.append(detection)
    return message


def names_to_label_info(class_names: Mapping[int, str], header: Header) -> Any:
    """Build the vision_msgs/LabelInfo of the names whose numbers it can hold: 0..65534."""
    message = VISION.LabelInfo(header=header)
    message.class_map = [
        VISION.VisionClass(class_id=label, class_name=name)
        for label, name in sorted(class_names.items())
        if 0 <= label < _UNLABELED
    ]
    return message


def tracks_to_annotations(
    tracks: Instances, header: Header, shape: tuple[int, int], class_names: Mapping[int, str]
) -> Any:
    """Build foxglove_msgs/ImageAnnotations: outlines and captions in the colours of the ids.

    Both have their origin at the outer corner of the top-left pixel. ``shape`` is (height, width)
    of the image.
    """
    message = FOXGLOVE.ImageAnnotations()
    size = max(12.0, shape[0] / 40)
    for i in range(len(tracks)):
        colour = colour_in(tracks, i)
        for outline in outlines(tracks, i):
            message.points.append(
                FOXGLOVE.PointsAnnotation(
                    timestamp=header.stamp,
                    type=FOXGLOVE.PointsAnnotation.LINE_LOOP,
                    points=[FOXGLOVE.Point2(x=x, y=y) for x, y in outline.tolist()],
                    outline_color=_foxglove_colour(colour),
                    thickness=max(1.0, shape[0] / 360),
                )
            )
        x, y = tracks.boxes[i, :2].tolist()
        message.texts.append(
            FOXGLOVE.TextAnnotation(
                timestamp=header.stamp,
                # The lower left corner of the text: above the box, or in it at the upper edge.
                position=FOXGLOVE.Point2(x=x, y=y if y > size else y + size),
                text=caption(tracks, i, class_names),
                font_size=size,
                text_color=_foxglove_colour(ink_on(colour)),
                background_color=_foxglove_colour(colour),
            )
        )
    return message


def _foxglove_colour(rgb: tuple[int, int, int]) -> Any:
    red, green, blue = (value / 255 for value in rgb)
    return FOXGLOVE.Color(r=red, g=green, b=blue, a=1.0)


def tracks_to_marker_array(
    tracks: Instances,
    header: Header,
    info: CameraInfo,
    rectified: bool,
    class_names: Mapping[int, str],
) -> MarkerArray:
    """Build outlines and captions for RViz, in the plane one metre in front of the camera.

    How far away an object is nobody knows: these are the directions in which the camera sees it.
    The markers of before are deleted first.

    Raises
    ------
    ValueError
        See ``optics.rays``.

    """
    boxes = tracks.boxes
    # (N, 2), the middle of the upper edges: text is centred
    places = np.stack(((boxes[:, 0] + boxes[:, 2]) / 2, boxes[:, 1]), axis=1)
    shapes = [(i, outline) for i in range(len(tracks)) for outline in outlines(tracks, i)]
    points = rays(np.concatenate([places, *(o for _, o in shapes)]), info, rectified)
    texts = []
    for i, (x, y) in enumerate(points[: len(tracks)].tolist()):
        text = Marker(header=header, ns='captions', id=i, type=Marker.TEXT_VIEW_FACING)
        text.lifetime, text.color = _LIFETIME, _marker_colour(tracks, i)
        text.scale.z, text.text = _LETTER, caption(tracks, i, class_names)
        if np.isfinite((x, y)).all():
            text.pose.position = Point(x=x, y=y - _LETTER, z=1.0)
            texts.append(text)
    ends: list[Point] = []
    colours: list[ColorRGBA] = []
    first = len(tracks)
    for i, outline in shapes:
        corners = points[first : first + len(outline)].tolist()
        first += len(outline)
        colour = _marker_colour(tracks, i)
        for a, b in zip(corners, corners[1:] + corners[:1]):
            if np.isfinite((a, b)).all():
                ends += [Point(x=x, y=y, z=1.0) for x, y in (a, b)]
                colours += [colour, colour]
    lines = Marker(header=header, ns='outlines', type=Marker.LINE_LIST, lifetime=_LIFETIME)
    lines.scale.x, lines.points, lines.colors = _LINE, ends, colours
    none = Marker(header=header, action=Marker.DELETEALL)
    return MarkerArray(markers=[none, *([lines] if ends else []), *texts])


def _marker_colour(tracks: Instances, i: int) -> ColorRGBA:
    red, green, blue = (value / 255 for value in colour_in(tracks, i))
    return ColorRGBA(r=red, g=green, b=blue, a=1.0)


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
