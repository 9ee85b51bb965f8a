# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Detections of another node: vision_msgs/Detection2DArray as ``Instances``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from masa_ros.errors import ConfigError
from masa_ros.streams.classes import ClassNames
from masa_ros.types import Instances


def message_type() -> type:
    """Return vision_msgs/Detection2DArray; raises ConfigError where it is not installed."""
    try:
        from vision_msgs.msg import Detection2DArray
    except ImportError as error:
        raise ConfigError(
            f'given_detections needs vision_msgs ({error}): '
            'sudo apt install ros-$ROS_DISTRO-vision-msgs'
        ) from error
    found: type = Detection2DArray
    return found


def detections_from_msg(message: Any, classes: ClassNames) -> Instances:
    """Return the boxes of a vision_msgs/Detection2DArray with their best hypotheses.

    A rotated box counts as the upright one around it; a detection without hypotheses has score 1
    and no class. Boxes that are not finite come too: the stream refuses and counts them.
    """
    boxes, scores, labels = [], [], []
    for detection in message.detections:
        centre = detection.bbox.center
        at = getattr(centre, 'position', centre)  # before vision_msgs 4 a plain Pose2D
        turn = centre.theta if math.isfinite(centre.theta) else 0.0
        cosine, sine = abs(math.cos(turn)), abs(math.sin(turn))
        width, height = detection.bbox.size_x, detection.bbox.size_y
        half_x, half_y = (width * cosine + height * sine) / 2, (width * sine + height * cosine) / 2
        best = max(
            (result.hypothesis for result in detection.results),
            key=lambda hypothesis: hypothesis.score,
            default=None,
        )
        boxes.append((at.x - half_x, at.y - half_y, at.x + half_x, at.y + half_y))
        scores.append(1.0 if best is None else best.score)
        labels.append(-1 if best is None else classes.label(best.class_id))
    with np.errstate(over='ignore'):  # to infinity, which is refused
        return Instances(
            boxes=np.array(boxes, np.float64).reshape(-1, 4).astype(np.float32),
            scores=np.array(scores, np.float64).astype(np.float32),
            labels=np.array(labels, np.int32),
        )
