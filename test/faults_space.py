# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What goes wrong with the depth beside the images of a tracker."""

import array
import time

import numpy as np
from fault_scene import Scene
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image

from masa_ros.nodes.messages import array_to_image, ns_to_stamp, stamp_to_ns

METRES = np.full((240, 320), 2.0, np.float32)
K = [300.0, 0.0, 159.5, 0.0, 300.0, 119.5, 0.0, 0.0, 1.0]


class _Depth:
    """Sends depth and calibration beside the images of a scene."""

    def __init__(self, stage: Scene, **info: object) -> None:
        self.stage, self.harness = stage, stage.harness
        peer = self.harness.peer
        self.depth = peer.create_publisher(Image, 'depth/image_raw', qos_profile_sensor_data)
        self.info = peer.create_publisher(CameraInfo, 'camera_info', 5)
        assert self.harness.until(self.depth.get_subscription_count)
        assert self.harness.until(self.info.get_subscription_count)
        self.calibrate(**info)

    def calibrate(self, **fields: object) -> None:
        values = {'height': 240, 'width': 320, 'distortion_model': 'plumb_bob', 'd': [0.0] * 5}
        self.info.publish(CameraInfo(**(values | {'k': K} | fields)))
        time.sleep(0.1)

    def send(self, pixels: np.ndarray = METRES, late: int = 0, **fields: object) -> None:
        """Publish a good image after its depth, which comes with some fields changed."""
        image = self.stage.good()
        message = array_to_image(pixels, '32FC1', self.harness.header(1))
        message.header.stamp = ns_to_stamp(stamp_to_ns(image.header.stamp) - late)
        for name, value in fields.items():
            setattr(message, name, value)
        self.depth.publish(message)
        self.stage.send(image)
        time.sleep(0.05)


def bad_depth(stage: Scene) -> dict[str, int]:
    depth = _Depth(stage)
    for fields in (
        *({'encoding': 'rgb8'}, {'encoding': ''}, {'data': array.array('B', bytes(99))}),
        *({'step': 3}, {'height': 2**32 - 1}, {'height': 0}),
    ):
        depth.send(**fields)
    depth.send(METRES[:100])
    return {'event_space_bad_depth': 6, 'processed': 6}


def silence(stage: Scene) -> dict[str, int]:
    depth = _Depth(stage)
    depth.send()
    for _ in range(3):
        depth.send(late=50_000_000)
    for _ in range(5):
        stage.send(stage.good())
        time.sleep(0.05)
    return {'event_space_no_depth': 6, 'processed': 8}


def bad_calibration(stage: Scene) -> dict[str, int]:
    depth = _Depth(stage)
    for fields in (
        {'k': [float('nan')] * 9},
        {'height': 480, 'width': 640},
        {'distortion_model': 'mirror', 'd': [0.1]},
        {'k': [0.0] * 9},
    ):
        depth.calibrate(**fields)
        depth.send()
    return {'event_space_calibration': 3, 'processed': 4}


def other_units(stage: Scene) -> dict[str, int]:
    depth = _Depth(stage)
    for _ in range(4):
        depth.send(METRES * 1000)
    stage.harness.until(lambda: stage.count('space_out_of_range') > 0)
    return {'space_out_of_range': 1, 'processed': 4}


def no_transform(stage: Scene) -> dict[str, int]:
    depth = _Depth(stage)
    info = stage.harness.peer.create_publisher(CameraInfo, 'depth/camera_info', 5)
    stage.harness.until(info.get_subscription_count)
    info.publish(CameraInfo(height=240, width=320, k=K))
    for _ in range(4):
        depth.send()
    return {'event_space_transform': 3, 'processed': 4}


def mistake(stage: Scene) -> dict[str, int]:
    (camera,) = stage.harness.cameras
    depth, locator = _Depth(stage), camera.space._locator
    camera.space._locator = None
    for _ in range(3):
        depth.send()
    camera.space._locator = locator
    return {'mistakes': 1, 'processed': 3}
