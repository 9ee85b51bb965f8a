# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A tracker node seen from outside: its images and tracks, its services, parameters, health."""

from __future__ import annotations

import collections
import contextlib
import struct
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterDescriptor, ParameterType
from rcl_interfaces.srv import (
    DescribeParameters,
    GetParameters,
    ListParameters,
    SetParametersAtomically,
)
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter as Value
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

from masa_ros.errors import ConfigError, MasaError, PromptError
from masa_ros.images import rgb_from_compressed, rgb_from_image
from masa_ros.msg import TrackedInstanceArray
from masa_ros.nodes import messages
from masa_ros.nodes.qos import profile
from masa_ros.srv import AddObject, CorrectObject, KeepOnly, RemoveObject
from masa_ros.types import Frame, Prompt, Result

_KEPT = 40  # images that wait for their tracks
_LOOKED_SECONDS = 3.0  # after which nobody looks any more
_ANSWER_SECONDS = 20.0  # for a service
_READY_SECONDS = 90.0  # to be configured again: weights are read
_HEAD = struct.Struct('<4xiI')  # of a serialised message that begins with a header: its stamp
_KINDS = {
    'sensor_msgs/msg/Image': (Image, rgb_from_image),
    'sensor_msgs/msg/CompressedImage': (CompressedImage, rgb_from_compressed),
}


class NodeError(MasaError):
    """The node does not answer."""


class Declared(NamedTuple):
    """A parameter of the node."""

    descriptor: ParameterDescriptor
    value: Any


class NodeClient:
    """A tracker node, one camera of it, and whoever looks at it. For any number of threads.

    Images and tracks are subscribed to while somebody looks, and deserialised when they are asked
    for: more of them cost nothing.

    Parameters
    ----------
    name: of the node, with its namespace.
    camera: of it; '' for the only one.

    """

    def __init__(self, name: str, camera: str = '') -> None:
        self.name, self.camera = name if name.startswith('/') else f'/{name}', camera
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context)
        self._node = rclpy.create_node('masa_ros_studio', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._lock = threading.Lock()
        self._clients: dict[str, Any] = {}
        self._subscriptions: list[Any] = []
        self._images: collections.deque[tuple[int, bytes]] = collections.deque(maxlen=_KEPT)
        self._tracks: tuple[int, bytes] | None = None
        self._given: int | None = None
        self._kind = ''
        self._looked = 0.0
        self.health: DiagnosticStatus | None = None
        self.heard = 0.0
        self._node.create_subscription(DiagnosticArray, '/diagnostics', self._on_health, 10)
        self._node.create_timer(0.25, self._watch)
        self._thread = threading.Thread(target=self._spin, name='node client', daemon=True)

    def begin(self) -> None:
        """Start to listen, in a thread."""
        self._thread.start()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        if self._thread.ident is not None:
            self._thread.join(2)
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    @property
    def _status_name(self) -> str:
        name = self.name.lstrip('/')
        return f'{name}: {self.camera}' if self.camera else name

    def _on_health(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == self._status_name:
                self.health, self.heard = status, time.monotonic()

    @property
    def figures(self) -> dict[str, str]:
        """What the node's diagnostics tell by name, nothing before any came."""
        return {} if self.health is None else {v.key: v.value for v in self.health.values}

    # Images and tracks

    def look(self) -> None:
        """Say that somebody looks: for some seconds images and tracks are received."""
        self._looked = time.monotonic()

    def _watch(self) -> None:
        """Subscribe, or not any more, as somebody looks or not."""
        looked = time.monotonic() - self._looked < _LOOKED_SECONDS
        if looked and not self._subscriptions and (topic := self.figures.get('topic')):
            self._subscribe(topic)
        elif not looked and self._subscriptions:
            subscriptions, self._subscriptions = self._subscriptions, []
            for subscription in subscriptions:
                self._node.destroy_subscription(subscription)
            with self._lock:
                self._images.clear()

    def _subscribe(self, topic: str) -> None:
        """Subscribe to the images that the node tracks; of a video to what it draws itself."""
        types = dict(self._node.get_topic_names_and_types())
        prefix = f'{self.name}/{self.camera}/' if self.camera else f'{self.name}/'
        self._kind = next((kind for kind in types.get(topic, ()) if kind in _KINDS), '')
        if not self._kind:
            self._kind, topic = 'sensor_msgs/msg/Image', f'{prefix}overlay'
        reliable = all(
            info.qos_profile.reliability.name == 'RELIABLE'
            for info in self._node.get_publishers_info_by_topic(topic)
        )
        # Large images of a publisher that does not send again are lost as they may be.
        images = profile('reliable' if reliable else 'sensor_data', 1)
        tracks = profile('sensor_data', 1)
        subscribe = self._node.create_subscription
        self._subscriptions = [
            subscribe(_KINDS[self._kind][0], topic, self._on_image, images, raw=True),
            subscribe(TrackedInstanceArray, f'{prefix}tracks', self._on_tracks, tracks, raw=True),
        ]

    def _on_image(self, data: bytes) -> None:
        with self._lock:
            self._images.append((_stamp_of(data), data))

    def _on_tracks(self, data: bytes) -> None:
        with self._lock:
            self._tracks = _stamp_of(data), data

    def newest(self) -> Result | None:
        """Return the newest tracks with their image; None where there is nothing new.

        Raises
        ------
        ImageError
            When the image cannot be shown.

        """
        with self._lock:
            tracks = self._tracks
            if tracks is None or tracks[0] == self._given:
                return None
            stamp, data = tracks
            image = next((image for at, image in self._images if at == stamp), None)
            if image is None:
                return None
            self._given = stamp
        kind, read = _KINDS[self._kind]
        message = deserialize_message(data, TrackedInstanceArray)
        names = {i.class_id: i.class_name for i in message.instances if i.class_name}
        frame = Frame(read(deserialize_message(image, kind)), stamp, message.header.frame_id)
        return Result(frame, messages.tracks_from_msg(message), names)

    # Services

    def _call(self, kind: Any, name: str, request: Any, seconds: float = _ANSWER_SECONDS) -> Any:
        """Return what a service of the node answers; raises NodeError where it does not."""
        with self._lock:
            if name not in self._clients:
                self._clients[name] = self._node.create_client(kind, f'{self.name}/{name}')
            client = self._clients[name]
        if not client.wait_for_service(timeout_sec=min(seconds, 5.0)):
            raise NodeError(f'{self.name} offers no {name}: does it run?')
        over = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: over.set())
        if not over.wait(seconds):
            client.remove_pending_request(future)
            raise NodeError(f'{self.name} did not answer {name} within {seconds:.0f} s')
        return future.result()

    def ask(self, stamp_ns: int, prompt: Prompt) -> list[int]:
        """Follow a prompt made on the image of a stamp; returns the tracks that it became."""
        fields = messages.prompt_fields(prompt, messages.ns_to_stamp(stamp_ns))
        fields['camera'] = self.camera
        if prompt.track_id:
            request = CorrectObject.Request(track_id=prompt.track_id, **fields)
            answer = self._call(CorrectObject, 'correct_object', request)
        else:
            request = AddObject.Request(text=prompt.text, **fields)
            answer = self._call(AddObject, 'add_object', request)
        _check(answer)
        return [each.track_id for each in answer.instances]

    def remove(self, track_id: int) -> None:
        """Forget a track; raises PromptError where none has this id."""
        request = RemoveObject.Request(camera=self.camera, track_id=track_id)
        _check(self._call(RemoveObject, 'remove_object', request))

    def keep_only(self, track_ids: list[int]) -> None:
        """Forget all other tracks; raises PromptError where one is not tracked."""
        request = KeepOnly.Request(camera=self.camera, track_ids=track_ids)
        _check(self._call(KeepOnly, 'keep_only', request))

    def rename(self, track_id: int, name: str) -> None:
        """Call a track something else; raises PromptError where none has this id."""
        request = CorrectObject.Request(camera=self.camera, track_id=track_id, name=name)
        _check(self._call(CorrectObject, 'correct_object', request))

    # Parameters

    def parameters(self) -> list[Declared]:
        """Return the node's parameters, in the order of their names."""
        listed = self._call(ListParameters, 'list_parameters', ListParameters.Request())
        names = sorted(n for n in listed.result.names if not n.startswith(('qos_', 'use_sim')))
        described = self._call(
            DescribeParameters, 'describe_parameters', DescribeParameters.Request(names=names)
        )
        values = self._call(GetParameters, 'get_parameters', GetParameters.Request(names=names))
        return [
            Declared(descriptor, _value_of(value))
            for descriptor, value in zip(described.descriptors, values.values)
        ]

    def set_parameters(self, values: Mapping[str, Any], configure: bool) -> None:
        """Set parameters, all or none; where ``configure``, the node is configured anew.

        Raises
        ------
        ConfigError
            Saying why the node does not take them.

        """
        changed = [Value(name, value=value).to_parameter_msg() for name, value in values.items()]
        if configure:
            self._change(Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)
        try:
            self._set(changed)
        finally:
            if configure:
                self._change(Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)

    def _set(self, changed: list[Parameter]) -> None:
        request = SetParametersAtomically.Request(parameters=changed)
        answer = self._call(SetParametersAtomically, 'set_parameters_atomically', request)
        if not answer.result.successful:
            raise ConfigError(answer.result.reason)

    def _change(self, *transitions: int) -> None:
        for transition in transitions:
            request = ChangeState.Request(transition=Transition(id=transition))
            answer = self._call(ChangeState, 'change_state', request, _READY_SECONDS)
            if not answer.success:
                raise ConfigError(f'{self.name} cannot be configured so: see its log')


def _stamp_of(data: bytes) -> int:
    """Return the stamp in nanoseconds of a serialised message that begins with a header."""
    if data[1] & 1 == 0:  # big endian, which no machine here writes
        return 0
    seconds, nanoseconds = _HEAD.unpack_from(data)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def _check(answer: Any) -> None:
    if not answer.success:
        raise PromptError(answer.message)


def _value_of(value: Any) -> Any:
    """Return what a rcl_interfaces/ParameterValue holds."""
    names = {
        ParameterType.PARAMETER_BOOL: 'bool_value',
        ParameterType.PARAMETER_INTEGER: 'integer_value',
        ParameterType.PARAMETER_DOUBLE: 'double_value',
        ParameterType.PARAMETER_STRING: 'string_value',
        ParameterType.PARAMETER_STRING_ARRAY: 'string_array_value',
    }
    found = getattr(value, names.get(value.type, 'string_value'))
    return list(found) if value.type == ParameterType.PARAMETER_STRING_ARRAY else found
