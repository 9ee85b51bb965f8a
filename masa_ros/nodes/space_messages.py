# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Positions of tracks as ROS messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Quaternion, TransformStamped, Vector3
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from masa_ros.msg import TrackedInstance3D, TrackedInstance3DArray
from masa_ros.nodes.messages import VISION, cloud_of, ns_to_stamp
from masa_ros.overlay import caption, colour_in
from masa_ros.space.estimate import Estimate
from masa_ros.space.locate import Place
from masa_ros.types import Instances, class_name

_LIFETIME = Duration(sec=2)  # of markers
_THIN = 0.02  # metres, the least side of a marker: RViz draws nothing that is flat
_CLOUD: Any = np.dtype([('x', 'f4'), ('y', 'f4'), ('z', 'f4'), ('track_id', 'u4')])


def places_to_msg(
    tracks: Instances,
    places: Sequence[Place],
    header: Header,
    target_frame: str,
    depth_ns: int,
    class_names: Mapping[int, str],
) -> TrackedInstance3DArray:
    """Build the message of one image; ``depth_ns`` is the stamp of its depth, 0 for none."""
    message = TrackedInstance3DArray(
        header=header,
        target_frame=target_frame or header.frame_id,
        depth_stamp=ns_to_stamp(depth_ns),
    )
    instances = []
    for i, place in enumerate(places):
        made = TrackedInstance3D(
            track_id=int(tracks.track_ids[i]),
            state=int(tracks.states[i]),
            class_id=int(tracks.labels[i]),
            class_name=class_name(int(tracks.labels[i]), class_names),
            name=tracks.names[i],
            score=float(tracks.scores[i]),
            reason=int(place.reason),
        )
        if place.position is not None:
            made.position_source = TrackedInstance3D.POSITION_PREDICTED
            made.position = _point(place.position)
            made.position_covariance = place.covariance.ravel()
        if isinstance(place.measured, Estimate):
            made.position_source = TrackedInstance3D.POSITION_MEASURED
            made.box_center = _point(place.measured.box.mean(axis=0))
            made.box_size = _vector(place.measured.size)
            made.depth_points = place.measured.points
        if place.motion is not None:
            made.has_motion = True
            made.target_position = _point(place.motion.position)
            made.target_position_covariance = place.motion.covariance.ravel()
            made.velocity = _vector(place.motion.velocity)
            made.velocity_covariance = place.motion.velocity_covariance.ravel()
            made.seconds_since_measured = place.motion.age
        instances.append(made)
    message.instances = instances
    return message


def places_to_detections(
    tracks: Instances, places: Sequence[Place], header: Header, class_names: Mapping[int, str]
) -> Any:
    """Build vision_msgs/Detection3DArray, the track ids as ids: what has a position."""
    message = VISION.Detection3DArray(header=header)
    for i, place in enumerate(places):
        if place.position is None:
            continue
        detection = VISION.Detection3D(header=header, id=str(tracks.track_ids[i]))
        centre, size = _box_of(place, 0.0)
        detection.bbox.center.position, detection.bbox.size = _point(centre), _vector(size)
        detection.bbox.center.orientation.w = 1.0
        result = VISION.ObjectHypothesisWithPose()
        result.hypothesis.class_id = class_name(int(tracks.labels[i]), class_names)
        result.hypothesis.score = float(tracks.scores[i])
        result.pose.pose.position = _point(place.position)
        result.pose.pose.orientation.w = 1.0
        covariance = np.zeros((6, 6))
        covariance[:3, :3] = place.covariance
        result.pose.covariance = covariance.ravel()
        detection.results.append(result)
        message.detections.append(detection)
    return message


def places_to_markers(
    tracks: Instances, places: Sequence[Place], header: Header, class_names: Mapping[int, str]
) -> MarkerArray:
    """Build a box and a caption with its distance for every object that has a position.

    The markers of before are deleted first. What is predicted is half as opaque.
    """
    made = [Marker(header=header, action=Marker.DELETEALL)]
    for i, place in enumerate(places):
        if place.position is None:
            continue
        red, green, blue = (value / 255 for value in colour_in(tracks, i))
        opaque = 0.5 if isinstance(place.measured, Estimate) else 0.25
        centre, size = _box_of(place, _THIN)
        box = Marker(header=header, ns='boxes', id=i, type=Marker.CUBE, lifetime=_LIFETIME)
        box.pose.position, box.scale = _point(centre), _vector(size)
        box.pose.orientation.w = 1.0
        box.color = ColorRGBA(r=red, g=green, b=blue, a=opaque)
        text = Marker(header=header, ns='captions', id=i, type=Marker.TEXT_VIEW_FACING)
        text.lifetime, text.color = _LIFETIME, ColorRGBA(r=red, g=green, b=blue, a=1.0)
        far = float(np.linalg.norm(place.position))
        text.text, text.scale.z = f'{caption(tracks, i, class_names)} {far:.2f} m', far / 30
        text.pose.position = _point(centre - (0, size[1] / 2 + far / 30, 0))
        text.pose.orientation.w = 1.0
        made += [box, text]
    return MarkerArray(markers=made)


def places_to_cloud(tracks: Instances, places: Sequence[Place], header: Header) -> PointCloud2:
    """Build the cloud of the points of all objects, at most 1000 of each.

    Fields: x, y, z (float32, metres), track_id (uint32: modulo 2^32).
    """
    parts = []
    for track_id, place in zip(tracks.track_ids.tolist(), places):
        if isinstance(place.measured, Estimate):
            part = np.zeros(len(place.measured.inliers), _CLOUD)
            part['x'], part['y'], part['z'] = place.measured.inliers.T
            part['track_id'] = track_id % (1 << 32)
            parts.append(part)
    return cloud_of(np.concatenate(parts) if parts else np.zeros(0, _CLOUD), header)


def places_to_transforms(
    tracks: Instances, places: Sequence[Place], header: Header, wanted: set[str], prefix: str
) -> list[TransformStamped]:
    """Build the transforms from the camera to objects that are chosen by name or id."""
    made = []
    for i, place in enumerate(places):
        names = [name for name in (tracks.names[i], str(tracks.track_ids[i])) if name in wanted]
        if not names or place.position is None:
            continue
        transform = TransformStamped(header=header, child_frame_id=f'{prefix}/{names[0]}')
        transform.transform.translation = _vector(place.position)
        transform.transform.rotation = Quaternion(w=1.0)
        made.append(transform)
    return made


def _box_of(place: Place, least: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return centre and sides of the box; of what is predicted only where it is."""
    assert place.position is not None
    if not isinstance(place.measured, Estimate):
        return place.position, np.full(3, least)
    return place.measured.box.mean(axis=0), np.maximum(place.measured.size, least)


def _point(values: NDArray[np.float64]) -> Point:
    x, y, z = values.tolist()
    return Point(x=x, y=y, z=z)


def _vector(values: NDArray[np.float64]) -> Vector3:
    x, y, z = values.tolist()
    return Vector3(x=x, y=y, z=z)
