# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A node that follows the red disc of ``scene`` at once, with depth beside its images."""

import contextlib

import numpy as np
from conftest import scene
from masa_ros.msg import TrackedInstance3DArray
from rclpy.qos import qos_profile_sensor_data
from ros_harness import Harness
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from toy import Toy, ToyConfig, ToySession

from masa_ros.nodes.messages import array_to_image
from masa_ros.types import Result

FOCAL = 300.0
NEAR, BEHIND = 2.0, 5.0  # metres: the disc, and all else
WHERE = np.array([(70 - 159.5) / FOCAL * NEAR, (80 - 119.5) / FOCAL * NEAR, NEAR])


class FollowingSession(ToySession):
    def update(self, frame, encoded, given=None):
        if not self._began:
            self._began = True
            self._begin((220, 60, 50))
        return [Result(frame, self._find(encoded, frame.stamp_ns), {-1: 'disc'})]


class Following(Toy):
    """Answers every frame at once."""

    def session(self, after=None):
        return FollowingSession(self, after)


def load(name, options, log):
    return Following(ToyConfig())


def metres(shift=0):
    """The depth of ``scene``."""
    rows, columns = np.indices((240, 320))
    disc = (columns - 70 - shift) ** 2 + (rows - 80) ** 2 <= 34**2
    return np.where(disc, NEAR, BEHIND).astype(np.float32)


class SpaceHarness(Harness):
    """Publishes depth too and keeps the positions."""

    def __init__(self, **parameters):
        self.places = []
        defaults = {'space.depth': 'raw', 'device': 'cpu'}
        super().__init__(defaults | parameters, load)
        self.depth = self.peer.create_publisher(Image, 'depth/image_raw', qos_profile_sensor_data)
        self.compressed_depth = self.peer.create_publisher(
            CompressedImage, 'depth/image_raw/compressedDepth', qos_profile_sensor_data
        )
        self.cloud = self.peer.create_publisher(PointCloud2, 'depth/points', 5)
        self.info = self.peer.create_publisher(CameraInfo, 'camera_info', 5)
        self.depth_info = self.peer.create_publisher(CameraInfo, 'depth/camera_info', 5)
        self.peer.create_subscription(
            TrackedInstance3DArray, '/masa_tracker/tracks_3d', self.places.append, 100
        )
        self.wait_until_tracking()
        depths = (self.depth, self.compressed_depth, self.cloud)
        assert self.until(lambda: any(p.get_subscription_count() for p in depths))
        assert self.until(self.info.get_subscription_count)
        self.calibrate()

    def calibrate(self, **fields):
        values = {'height': 240, 'width': 320, 'distortion_model': 'plumb_bob', 'd': [0.0] * 5}
        values['k'] = [FOCAL, 0.0, 159.5, 0.0, FOCAL, 119.5, 0.0, 0.0, 1.0]
        (camera,) = self.cameras
        message = CameraInfo(**(values | fields))
        self.info.publish(message)
        self.until(lambda: getattr(camera.inputs.info, 'k', None) is not None)

    def depth_image(self, pixels, header, encoding='32FC1', frame='camera_optical_frame'):
        message = array_to_image(pixels, encoding, Header(stamp=header.stamp, frame_id=frame))
        return message

    def place(self, depth=True, pixels=None, shift=0, **options):
        """Publish an image, with its depth; return the answer in space, None in vain."""
        message = self.image(scene(shift))
        before = len(self.places)
        if depth:
            pixels = metres(shift) if pixels is None else pixels
            self.depth.publish(self.depth_image(pixels, message.header, **options))
        self.images.publish(message)
        self.until(lambda: len(self.places) > before)
        return self.places[-1] if len(self.places) > before else None


@contextlib.contextmanager
def space(**parameters):
    with contextlib.closing(SpaceHarness(**parameters)) as made:
        yield made
