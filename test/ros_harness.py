# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A tracker node and the people around it, over real DDS, each with an executor of its own."""

import contextlib
import threading
import time

import numpy as np
import rclpy
from conftest import scene
from diagnostic_msgs.msg import DiagnosticArray
from masa_ros.msg import TrackedInstanceArray
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from masa_ros.nodes.messages import array_to_image, ns_to_stamp
from masa_ros.nodes.tracker_node import TrackerNode

SECOND = 1_000_000_000
PATIENCE = 60.0  # what only a mistake needs, in seconds: no machine of the tests is so slow
ENDS = ('processed', 'skipped', 'rejected', 'failed')  # one of them for every image received


class Harness:
    """Publishes images to a node and keeps what it answers."""

    def __init__(self, overrides, load=None):
        self.context = rclpy.Context()
        rclpy.init(args=[], context=self.context)
        options = {'load': load} if load else {}
        self.node = TrackerNode(
            context=self.context,
            parameter_overrides=[Parameter(name, value=v) for name, v in overrides.items()],
            **options,
        )
        self.peer = rclpy.create_node('peer', context=self.context)
        self.tracks, self.diagnostics = [], []
        self.images = self.peer.create_publisher(Image, 'image_raw', qos_profile_sensor_data)
        self.compressed = self.peer.create_publisher(
            CompressedImage, 'image_raw/compressed', qos_profile_sensor_data
        )
        self.peer.create_subscription(
            TrackedInstanceArray, '/masa_tracker/tracks', self.tracks.append, 100
        )
        self.peer.create_subscription(DiagnosticArray, '/diagnostics', self.diagnostics.append, 10)
        self._threads = []
        for node in (self.node, self.peer):
            executor = SingleThreadedExecutor(context=self.context)
            executor.add_node(node)
            thread = threading.Thread(target=self._spin, args=(executor,), daemon=True)
            thread.start()
            self._threads.append(thread)
        self._stamp = 100 * SECOND

    def _spin(self, executor):
        with contextlib.suppress(rclpy.executors.ExternalShutdownException):
            executor.spin()

    def close(self):
        rclpy.shutdown(context=self.context)
        for thread in self._threads:
            thread.join(5)
        self.node.destroy_node()
        self.peer.destroy_node()

    def until(self, condition, seconds=PATIENCE):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.01)
        return False

    def wait_until_tracking(self):
        publishers = (self.images, self.compressed)
        assert self.until(lambda: any(p.get_subscription_count() for p in publishers))

    def header(self, stamp_ns=None):
        if stamp_ns is None:
            self._stamp += SECOND // 10
            stamp_ns = self._stamp
        return Header(stamp=ns_to_stamp(stamp_ns), frame_id='camera_optical_frame')

    def image(self, pixels, encoding='rgb8', stamp_ns=None):
        return array_to_image(pixels, encoding, self.header(stamp_ns))

    def exchange(self, message, publisher=None):
        """Publish one image and return the answer to it, None when there is none in time."""
        before = len(self.tracks)
        (publisher or self.images).publish(message)
        self.until(lambda: len(self.tracks) > before)
        return self.tracks[-1] if len(self.tracks) > before else None

    @property
    def cameras(self):
        """Cameras of the node, none while it is not configured."""
        return self.node._work.cameras if self.node._work is not None else []

    def account(self):
        """Images that the first camera received, and how many of them something became of."""
        figures = self.cameras[0].statistics.report()
        return figures['received'], sum(figures[name] for name in ENDS)

    def report(self, key):
        """A value of the newest diagnostics, '' when it is not there."""
        return next(self.reports(key), '')

    def reports(self, key):
        """Give the values of all diagnostics that came, the newest first."""
        for message in reversed(self.diagnostics):
            for status in message.status:
                if status.name == 'masa_tracker':
                    yield next((v.value for v in status.values if v.key == key), '')


def tracking(weights, **overrides):
    """A node that tracks all that random weights find, unless it does not start by itself."""
    parameters = {
        **{'weights': str(weights), 'device': 'cpu', 'input_size': 192},
        **{'score_threshold': 0.0, 'init_score_thr': 0.0, 'obj_score_thr': 0.0},
        'publish_tentative': True,
    }
    made = Harness(parameters | overrides)
    if made.node.get_parameter('autostart').value:
        made.wait_until_tracking()
    return made


def call(harness, kind, name, request):
    client = harness.peer.create_client(kind, name)
    assert client.wait_for_service(PATIENCE)
    future = client.call_async(request)
    assert harness.until(future.done)
    return future.result()


def warned(capfd, words):
    """Lines with these words that the node logged since the last call."""
    return [line for line in capfd.readouterr().err.splitlines() if words in line]


def logs(harness, capfd, words):
    """Wait until the node has logged these words, which may come in pieces."""
    heard = []

    def now():
        heard.append(capfd.readouterr().err)
        return words in ''.join(heard)

    return harness.until(now)


def set_parameter(harness, name, value):
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    return call(harness, SetParameters, '/masa_tracker/set_parameters', request).results[0]


class Peer:
    """A camera and a listener of their own for ``namespace``: of a node, or of one of its cameras.

    Publishes on /NAMESPACE/image_raw; tracks are taken from /masa_tracker/NAMESPACE/tracks and
    from /NAMESPACE/masa_tracker/tracks.
    """

    def __init__(self, namespace, context=None):
        self.context = context or rclpy.Context()
        self._own = context is None
        if self._own:
            rclpy.init(args=[], context=self.context)
        self.node = rclpy.create_node(f'{namespace}_peer', context=self.context)
        self.tracks = []
        self.images = self.node.create_publisher(Image, f'/{namespace}/image_raw', 10)
        for topic in (f'/masa_tracker/{namespace}/tracks', f'/{namespace}/masa_tracker/tracks'):
            self.node.create_subscription(TrackedInstanceArray, topic, self.tracks.append, 100)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._stamp = 100 * SECOND

    def close(self):
        self._executor.shutdown()
        self.node.destroy_node()
        if self._own:
            rclpy.shutdown(context=self.context)

    def until(self, condition, seconds=PATIENCE):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            self._executor.spin_once(timeout_sec=0.01)
        return False

    def image(self, pixels):
        self._stamp += SECOND // 10
        header = Header(stamp=ns_to_stamp(self._stamp), frame_id='camera_optical_frame')
        return array_to_image(pixels, 'rgb8', header)

    def exchange(self, message):
        """Publish one image and return the answer to it, None when there is none in time."""
        before = len(self.tracks)
        self.images.publish(message)
        return self.tracks[-1] if self.until(lambda: len(self.tracks) > before) else None

    def meet(self):
        """Publish images until one is answered; till then a side may not have found the other."""
        assert self.until(self.images.get_subscription_count), 'nobody wants images'
        for _ in range(int(PATIENCE)):
            message = self.image(scene())
            self.images.publish(message)
            if self.until(lambda: self.tracks, 1.0):
                break
        newest = message.header
        assert self.until(lambda: self.tracks and self.tracks[-1].header == newest), (
            'no tracks come'
        )


def jpeg(pixels):
    import cv2

    return cv2.imencode('.jpg', np.ascontiguousarray(pixels[:, :, ::-1]))[1].tobytes()
