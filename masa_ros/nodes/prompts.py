# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The services and topics by which somebody says what to follow, and what they mean."""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import numpy as np
from geometry_msgs.msg import PointStamped
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo

from masa_ros.errors import MasaError, PromptError
from masa_ros.masks import mask_from_msg
from masa_ros.nodes import messages, optics
from masa_ros.nodes.camera import Camera
from masa_ros.nodes.work import Work
from masa_ros.srv import (
    AddObject,
    CorrectObject,
    KeepOnly,
    RemoveObject,
    SetMode,
    SetWords,
)
from masa_ros.streams.stream import Stream
from masa_ros.types import Prompt, Result

T = TypeVar('T')

_REQUESTS = QoSProfile(depth=100)  # as services are, but of a flood more than ten are answered
_LONGEST_NAME = 200  # characters


class Prompts:
    """The services of a node about what it follows, and its topics of clicks.

    The tracks belong to the worker, which does between two images what is asked for. Until then
    the executor goes on with other things: the callbacks are coroutines, in a group of their own.

    Parameters
    ----------
    node: that serves.
    work: returns what the node does, None while it is not configured.

    """

    def __init__(self, node: LifecycleNode, work: Callable[[], Work | None]) -> None:
        self._node, self._work = node, work
        self._group = ReentrantCallbackGroup()
        self._clicks: list[Any] = []
        self._serve(AddObject, 'add_object', self._add)
        self._serve(CorrectObject, 'correct_object', self._correct)
        self._serve(RemoveObject, 'remove_object', self._remove)
        self._serve(KeepOnly, 'keep_only', self._keep_only)
        self._serve(SetWords, 'set_words', self._set_words)
        self._serve(SetMode, 'set_mode', self._set_mode)

    def _serve(
        self, kind: type, name: str, serve: Callable[[Any, Any], Coroutine[Any, Any, None]]
    ) -> None:
        """Offer a service; whatever goes wrong in it is its answer, and does not end the node."""

        async def answer(request: Any, response: Any) -> Any:
            try:
                await serve(request, response)
                response.success = True
            except MasaError as error:
                self._refused(getattr(request, 'camera', ''), error)
                response.message = str(error)
            except Exception as error:
                work = self._work()
                if work is not None:
                    work.mistake(error)
                response.message = f'a mistake in the program: {type(error).__name__}: {error}'
            return response

        self._node.create_service(
            kind, f'~/{name}', answer, qos_profile=_REQUESTS, callback_group=self._group
        )

    def listen(self) -> None:
        """Subscribe to the clicks of every camera, where the method understands them."""
        work = self._work()
        if work is None or 'point' not in work.method.accepts:
            return
        for camera in work.cameras:
            name = f'{camera.name}/click' if camera.name else 'click'
            on_click = functools.partial(self._on_click, work, camera)
            self._clicks.append(self._node.create_subscription(PointStamped, name, on_click, 10))

    def close(self) -> None:
        """End the subscriptions."""
        clicks, self._clicks = self._clicks, []
        for subscription in clicks:
            self._node.destroy_subscription(subscription)

    def _on_click(self, work: Work, camera: Camera, message: PointStamped) -> None:
        def over(doing: concurrent.futures.Future[Result]) -> None:
            error = doing.exception()
            if isinstance(error, MasaError):
                self._refused(camera.name, error)

        try:
            prompt = prompt_from_click(message, camera.inputs.info, camera.outputs.rectified)
            work.ask(camera, lambda stream: stream.ask(prompt)).add_done_callback(over)
        except PromptError as error:
            self._refused(camera.name, error)

    def _refused(self, name: str, error: MasaError) -> None:
        """Count a prompt that is refused; what failed is counted already."""
        work = self._work()
        if work is None or not isinstance(error, PromptError):
            return
        named = [camera for camera in work.cameras if camera.name == name]
        (named or work.cameras)[0].event('prompt_refused', f'a prompt is refused: {error}')

    async def _add(self, request: AddObject.Request, response: AddObject.Response) -> None:
        if not (request.points or request.box or request.mask_encoding or request.text):
            raise PromptError('nothing is pointed at: give points, a box, a mask or a text')
        await self._follow(request, response, request.text, 0)

    async def _correct(
        self, request: CorrectObject.Request, response: CorrectObject.Response
    ) -> None:
        if not request.track_id:
            raise PromptError('track_id 0 names no track')
        if request.name and not (request.points or request.box or request.mask_encoding):
            name = _name(request.name)
            work, camera = self._camera(request.camera)
            await self._done(work, camera, lambda stream: stream.rename(request.track_id, name))
            return
        await self._follow(request, response, '', request.track_id)

    async def _follow(self, request: Any, response: Any, text: str, track_id: int) -> None:
        prompt = prompt_from_msg(request, text, track_id)
        work, camera = self._camera(request.camera)
        result: Result = await self._done(work, camera, lambda stream: stream.ask(prompt))
        frame, tracks, names = result
        response.header = messages.header_of(frame)
        message = messages.tracks_to_msg(
            tracks, response.header, frame.shape, '', class_names=names
        )
        response.instances = message.instances

    async def _remove(self, request: RemoveObject.Request, response: Any) -> None:
        def remove(stream: Stream[Any]) -> None:
            if not stream.remove(request.track_id):
                raise PromptError(f'no track has the id {request.track_id}')

        await self._done(*self._camera(request.camera), remove)

    async def _keep_only(self, request: KeepOnly.Request, response: KeepOnly.Response) -> None:
        wanted = set(request.track_ids)
        removed = await self._done(
            *self._camera(request.camera), lambda stream: stream.keep_only(wanted)
        )
        if self._node.has_parameter('find'):
            self._set(find='nothing')
        response.removed = removed

    async def _set_words(self, request: SetWords.Request, response: Any) -> None:
        words = request.words.strip()
        self._set(words=words, find='words' if words else 'nothing')

    async def _set_mode(self, request: SetMode.Request, response: Any) -> None:
        self._set(find=request.find)

    def _set(self, **values: str) -> None:
        """Set parameters of the node, all or none."""
        missing = [name for name in values if not self._node.has_parameter(name)]
        if missing:
            method = self._node.get_parameter('method').value
            raise PromptError(f'the method {method} has no parameter {", ".join(missing)}')
        changed = [Parameter(name, value=value) for name, value in values.items()]
        result = self._node.set_parameters_atomically(changed)
        if not result.successful:
            raise PromptError(result.reason)

    def _camera(self, name: str) -> tuple[Work, Camera]:
        """Return the camera that a request names."""
        work = self._work()
        if work is None or not work.active:
            raise PromptError('the node is not active')
        for camera in work.cameras:
            if camera.name == name:
                return work, camera
        known = ', '.join(camera.name for camera in work.cameras)
        if not known:
            raise PromptError(f"there is no camera '{name}'; the only one has no name")
        raise PromptError(f"there is no camera '{name}'; there are: {known}")

    async def _done(self, work: Work, camera: Camera, job: Callable[[Stream[Any]], T]) -> T:
        """Let the worker do something with a camera's stream, and return what comes of it."""
        doing: concurrent.futures.Future[T] = work.ask(camera, job)
        executor = self._node.executor
        over: Future = Future(executor=executor)

        def wake(_: Any) -> None:
            over.set_result(None)
            if executor is not None:
                executor.wake()

        doing.add_done_callback(wake)
        await over
        return doing.result()


def prompt_from_msg(request: Any, text: str = '', track_id: int = 0) -> Prompt:
    """Return the prompt of a request of ``AddObject`` or ``CorrectObject``.

    Raises
    ------
    PromptError
        Naming the field that means nothing.

    """
    points = _numbers(request.points, 'points')
    if len(points) % 2:
        raise PromptError(f'points has {len(points)} numbers; they are x1, y1, x2, y2, ...')
    signs = list(request.positive)
    if signs and len(signs) * 2 != len(points):
        raise PromptError(f'{len(points) // 2} points have {len(signs)} signs in positive')
    box = _numbers(request.box, 'box')
    if len(box) not in (0, 4):
        raise PromptError(f'box has {len(box)} numbers; they are x_min, y_min, x_max, y_max')
    try:
        mask = mask_from_msg(request)
    except ValueError as error:
        raise PromptError(str(error)) from error
    return Prompt(
        stamp_ns=messages.stamp_to_ns(request.stamp),
        track_id=track_id,
        points=points.reshape(-1, 2),
        positive=np.array(signs, np.bool_) if signs else None,  # type: ignore[arg-type]
        box=box if len(box) else None,
        mask=mask,
        text=text,
        name=_name(request.name),
    )


def prompt_from_click(message: PointStamped, info: CameraInfo | None, rectified: bool) -> Prompt:
    """Return the prompt that a click in a viewer is.

    A point with z = 0 is a pixel of the image, as image views publish it. Any other is a place in
    metres, as RViz's tool *Publish Point* gives it, and must be in the camera's optical frame.

    Parameters
    ----------
    message: with the stamp of the image, or a later one: of the newest.
    info: calibration of the camera, where it is known.
    rectified: whether the image is.

    Raises
    ------
    PromptError
        When the point is not in the image's frame, or the camera is not calibrated.

    """
    x, y, z = message.point.x, message.point.y, message.point.z
    if not np.isfinite((x, y, z)).all():
        raise PromptError(f'the click ({x:g}, {y:g}, {z:g}) is not finite')
    if z:
        x, y = _pixel((x, y, z), message.header.frame_id, info, rectified)
    stamp_ns = messages.stamp_to_ns(message.header.stamp)
    return Prompt(stamp_ns, points=np.array([(x, y)], np.float32))


def _pixel(
    point: tuple[float, float, float], frame_id: str, info: CameraInfo | None, rectified: bool
) -> tuple[float, float]:
    if info is None:
        raise PromptError('a click in metres needs the camera_info of the images')
    if frame_id != info.header.frame_id:
        raise PromptError(
            f"the click is in the frame '{frame_id}', the images are in "
            f"'{info.header.frame_id}': make that the viewer's fixed frame"
        )
    if point[2] < 0:
        raise PromptError('the click is behind the camera')
    try:
        x, y = optics.seen_at(np.array([point]), info, rectified)[0].tolist()
    except ValueError as error:
        raise PromptError(str(error)) from error
    return x, y


def _name(name: str) -> str:
    if len(name) > _LONGEST_NAME:
        raise PromptError(f'the name has {len(name)} letters; at most {_LONGEST_NAME}')
    return name


def _numbers(values: Sequence[float], name: str) -> np.ndarray:
    numbers = np.array(values, np.float32)
    if not np.isfinite(numbers).all():
        raise PromptError(f'{name} holds numbers that are not finite')
    return numbers
