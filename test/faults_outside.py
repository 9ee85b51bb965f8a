# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What comes to a tracker from outside: images, stamps, the middleware."""

import array
import contextlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
from conftest import scene
from fault_scene import Scene
from ros_harness import PATIENCE, SECOND, jpeg
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from masa_ros.images import SUPPORTED_ENCODINGS
from masa_ros.nodes.messages import stamp_to_ns

REFUSED = [
    *(f'{kind}C{n}' for kind in ('8S', '16S', '32S', '32F', '64F') for n in range(1, 5)),
    *('8UC2', '16UC2', '16UC3', '16UC4', 'nv24', '', 'rgb8; jpeg compressed bgr8', 'rgb888'),
]


# Images


def truncated(stage: Scene) -> dict[str, int]:
    for size in (0, 1, 100, 240 * 320 * 3 - 1):
        stage.bad(data=array.array('B', bytes(size)))
    return {'rejected_data': 4}


def impossible_sizes(stage: Scene) -> dict[str, int]:
    for height, width in ((0, 0), (0, 320), (240, 0), (2**32 - 1, 2**32 - 1), (40_000, 320)):
        stage.bad(height=height, width=width)
    return {'rejected_size': 5}


def wrong_steps(stage: Scene) -> dict[str, int]:
    for step in (0, 1, 959):
        stage.bad(step=step)
    stage.bad(step=2**32 - 1)
    return {'rejected_step': 3, 'rejected_data': 1}


def longer_than_needed(stage: Scene) -> dict[str, int]:
    for extra in (1, 4096):
        message = stage.good()
        message.data = array.array('B', message.data.tobytes() + bytes(extra))
        stage.send(message)
    return {'processed': 3}


def every_encoding(stage: Scene) -> dict[str, int]:
    statistics = stage.harness.cameras[0].statistics
    for encoding in (*SUPPORTED_ENCODINGS, *REFUSED):
        message = stage.harness.image(scene(), encoding)
        message.step = 320 * 8 * 4  # more than any needs
        message.data = array.array('B', bytes(message.step * 360))
        if encoding in SUPPORTED_ENCODINGS:
            stage.expected[stamp_to_ns(message.header.stamp)] = (240, 320)
        before = statistics.processed + statistics.rejected.total()
        stage.harness.node.offer(message)  # a topic may lose images of 3.7 MB
        assert stage.harness.until(
            lambda before=before: statistics.processed + statistics.rejected.total() > before
        ), encoding
    # One image more was tracked before.
    return {'rejected_encoding': len(REFUSED), 'processed': len(SUPPORTED_ENCODINGS) + 1}


def changing_size(stage: Scene) -> dict[str, int]:
    for height, width in ((480, 640), (120, 160), (31, 57), (1, 1), (720, 1280)):
        stage.send(stage.good(np.full((height, width, 3), 90, np.uint8)))
        time.sleep(0.25)
    return {'processed': 4}


def changing_encoding(stage: Scene) -> dict[str, int]:
    for encoding, pixels in (
        *(('rgb8', scene()), ('bgr8', scene()), ('mono8', scene()[:, :, 0])),
        *(('bgra8', np.dstack((scene(), scene()[:, :, :1]))), ('rgb8', scene())),
    ):
        message = stage.harness.image(pixels, encoding)
        stage.expected[stamp_to_ns(message.header.stamp)] = (240, 320)
        stage.send(message)
        time.sleep(0.05)
    return {'processed': 4}


def compressed_garbage(stage: Scene) -> dict[str, int]:
    rng, whole = np.random.default_rng(0), jpeg(scene())
    for data in (
        b'',
        b'\xff',
        rng.bytes(5000),
        whole[:60],
        whole[:4] + rng.bytes(900),
        whole[:-9],
    ):
        message = CompressedImage(header=stage.harness.header(), format='jpeg')
        message.data = array.array('B', data)
        stage.send(message)
    return {'rejected_data': 6}


# Time


def without_stamps(stage: Scene) -> dict[str, int]:
    for _ in range(3):
        stage.send(stage.good(stamp_ns=0))
        time.sleep(0.05)
    return {'event_no_stamp': 3}


def future(stage: Scene) -> dict[str, int]:
    stage.send(stage.good(stamp_ns=10**9 * 2_000_000_000))
    time.sleep(0.1)
    return {'event_time_jump': 1}


def backwards(stage: Scene) -> dict[str, int]:
    for start in (200, 100, 100):  # a bag that loops
        stage.harness._stamp = start * SECOND
        for _ in range(10):
            stage.send(stage.good())
    return {'event_time_jump': 2}


def disorder(stage: Scene) -> dict[str, int]:
    for back in (50, 100, 400):
        message = stage.harness.image(scene(), stamp_ns=stage.harness._stamp - back * 10**6)
        stage.send(message)
    return {'rejected_late': 3}


# The middleware


def two_publishers(stage: Scene) -> dict[str, int]:
    harness = stage.harness
    second = harness.peer.create_publisher(Image, 'image_raw', 10)
    harness.until(lambda: second.get_subscription_count() == 1)
    for _ in range(10):
        stage.send(stage.good())
        second.publish(stage.good())
        time.sleep(0.05)
    seen = harness.until(lambda: stage.count('publishers') == 2)
    harness.peer.destroy_publisher(second)
    return {'publishers': 1} if seen else {'publishers': 2}


def overload(stage: Scene) -> dict[str, int]:
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        stage.harness.images.publish(stage.good())
        time.sleep(0.002)
    return {'skipped': 50}


_CAMERA = """
import array, rclpy, time
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node('camera')
images = node.create_publisher(Image, '/image_raw', qos_profile_sensor_data)
while not images.get_subscription_count():
    time.sleep(0.01)
for size in [1080 * 1920 * 3] * 20 + [0] * 5:  # large: many times what a socket holds
    images.publish(Image(encoding='none', data=array.array('B', bytes(size))))
    time.sleep(0.02)
"""


def lost_on_the_way(stage: Scene) -> dict[str, int]:
    subprocess.run([sys.executable, '-c', _CAMERA], cwd='/', check=True, timeout=500)
    return {'event_lost': 1}


def silence(stage: Scene) -> dict[str, int]:
    harness = stage.harness
    said = harness.until(
        lambda: any('no image for' in s.message for d in harness.diagnostics for s in d.status)
    )
    assert said, 'diagnostics say nothing of the silence'
    return {}


def publisher_restarts(stage: Scene) -> dict[str, int]:
    harness = stage.harness
    for _ in range(3):
        harness.peer.destroy_publisher(harness.images)
        time.sleep(0.1)
        harness.images = harness.peer.create_publisher(Image, 'image_raw', 10)
        assert harness.until(lambda: harness.images.get_subscription_count())
        stage.resume()
    return {}


_LISTENER = """
import rclpy
from masa_ros.msg import TrackedInstanceArray
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node('listener')
node.create_subscription(TrackedInstanceArray, '/masa_tracker/tracks', lambda m: None, 10)
node.create_subscription(Image, '/masa_tracker/overlay', lambda m: None, 10)
print('ready', flush=True)
rclpy.spin(node)
"""


@contextlib.contextmanager
def listener(stage: Scene):
    """A subscriber of the tracks and of the overlay in a process of its own."""
    outputs = stage.harness.cameras[0].outputs
    tracks, overlay = outputs._tracks, outputs._overlay
    before = tracks.get_subscription_count()

    def listens() -> bool:
        return tracks.get_subscription_count() > before and overlay.get_subscription_count() > 0

    process = subprocess.Popen(
        [sys.executable, '-c', _LISTENER], stdout=subprocess.PIPE, text=True, cwd='/'
    )
    try:
        assert process.stdout is not None
        assert 'ready' in process.stdout.readline()
        assert stage.harness.until(listens)
        yield process
    finally:
        process.kill()
        process.wait()


def never_reads(stage: Scene) -> dict[str, int]:
    with listener(stage) as process:
        os.kill(process.pid, signal.SIGSTOP)
        statistics = stage.harness.cameras[0].statistics
        before, end = statistics.processed, time.monotonic() + PATIENCE
        stage.stream(2.0)
        while statistics.processed < before + 10:
            stage.send(stage.good())
            assert time.monotonic() < end, 'it is held up'
    return {}


def killed_listener(stage: Scene) -> dict[str, int]:
    with listener(stage) as process:
        os.kill(process.pid, signal.SIGKILL)
        stage.stream(1.0)
    return {}


def bad_calibration(stage: Scene) -> dict[str, int]:
    harness, passed = stage.harness, []
    publisher = harness.peer.create_publisher(CameraInfo, 'camera_info', 10)
    harness.peer.create_subscription(CameraInfo, '/masa_tracker/camera_info', passed.append, 10)
    assert harness.until(lambda: publisher.get_subscription_count())
    good = CameraInfo(height=240, width=320, k=[300.0, 0, 160, 0, 300, 120, 0, 0, 1])
    nan = CameraInfo(height=240, width=320, k=[float('nan')] * 9)
    for info in (nan, CameraInfo(height=9, width=7), good):
        publisher.publish(info)
        time.sleep(0.1)
        stage.send(stage.good())
        time.sleep(0.1)
    assert harness.until(lambda: passed), 'a good calibration is not passed on'
    assert all(np.isfinite(info.k).all() and info.width == 320 for info in passed)
    return {'event_bad_camera_info': 2}


def everything(stage: Scene) -> dict[str, int]:
    for _ in range(3):
        for fault in (truncated, impossible_sizes, wrong_steps, disorder, without_stamps):
            fault(stage)
            stage.stream(0.1)
    return {'rejected_data': 12, 'rejected_size': 15, 'rejected_step': 9, 'event_no_stamp': 3}
