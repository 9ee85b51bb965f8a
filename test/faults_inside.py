# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What goes wrong inside a tracker: its model, its engines, its own code."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from conftest import scene
from diagnostic_msgs.msg import DiagnosticStatus
from fault_scene import Scene
from lifecycle_msgs.msg import State
from ros_harness import set_parameter
from sensor_msgs.msg import Image

from masa_ros import methods, options
from masa_ros.engines.runtimes import RUNTIMES, CompileRuntime
from masa_ros.errors import EngineError
from masa_ros.models.stages import Eager

# The model


def breaking(error: Callable[[], Exception], device: str = 'cpu') -> Callable:
    """Load methods whose network fails while ``broken`` is set and they are on ``device``."""

    def load(name, config, log):
        method = methods.load(name, options.replace(config, device='cpu'), log)
        on_device = options.values_of(config)['device'] == device
        encode = method.encode

        def perhaps(frames):
            if load.broken and on_device:
                raise error()
            return encode(frames)

        method.encode = perhaps
        return method

    load.broken = False
    return load


def _break(stage: Scene) -> None:
    """Let the device be gone; the images sent meanwhile may be answered once there is another."""
    stage.harness.node._load_method.broken = True
    for _ in range(3):
        stage.send(stage.good())
        time.sleep(0.1)


def model_fails(stage: Scene) -> dict[str, int]:
    _break(stage)
    time.sleep(0.4)
    stage.harness.node._load_method.broken = False
    return {'failed': 3}


def _ids_of_a_still_picture(stage: Scene) -> set[int]:
    """Ids that the node gives to one picture, shown until they do not change any more."""
    before: set[int] = set()
    for _ in range(20):
        answer = stage.harness.exchange(stage.good(scene()))
        ids = {i.track_id for i in answer.instances} if answer is not None else set()
        if ids and ids == before:
            return ids
        before = ids
    raise AssertionError('the ids of a still picture do not come to rest')


def moves_to_cpu(stage: Scene) -> dict[str, int]:
    before = _ids_of_a_still_picture(stage)
    _break(stage)  # and stays broken: the device is gone
    assert stage.harness.until(lambda: stage.count('failed') >= 1)
    time.sleep(1.0)
    after = _ids_of_a_still_picture(stage)
    assert len(before & after) > len(before) / 2, f'other tracks: {before} became {after}'
    return {'event_device_failure': 1}


def deactivates(stage: Scene) -> dict[str, int]:
    _break(stage)
    unconfigured = State.PRIMARY_STATE_UNCONFIGURED
    assert stage.harness.until(lambda: stage.state() == unconfigured)
    assert stage.harness.images.get_subscription_count() == 0
    node = stage.harness.node
    node._load_method.broken = False
    node.trigger_configure()
    node.trigger_activate()
    stage.harness.wait_until_tracking()
    return {'event_device_failure': 1}


class _Fragile(CompileRuntime):
    """A runtime whose engines are eager ones and fail while ``broken`` is set."""

    broken = False

    def missing(self, device: str) -> str:
        return ''

    def load(self, stage, data, dtype, device):
        eager = Eager(stage, dtype)

        def run(**tensors):
            if self.broken:
                raise EngineError('no more')
            return eager(**tensors)

        return run


def with_fragile_engines(name, config, log):
    runtime = _Fragile()
    with mock.patch.dict(RUNTIMES, {'compile': runtime}):
        method = methods.load(name, config, log)
    with_fragile_engines.runtime = runtime
    return method


def engine_breaks(stage: Scene) -> dict[str, int]:
    assert stage.harness.until(lambda: 'image compile' in stage.harness.report('engines'))
    with_fragile_engines.runtime.broken = True
    assert stage.harness.exchange(stage.good()) is not None, 'an image is lost'
    said = lambda: 'no more' in stage.harness.report('engines')  # noqa: E731
    assert stage.harness.until(said), stage.harness.report('engines')
    return {'processed': 2}


def mistake(stage: Scene) -> dict[str, int]:
    session = stage.harness.cameras[0].stream._session
    update = session.update

    def wrong(*arguments):
        raise IndexError('of a programmer')

    session.update = wrong
    for _ in range(3):
        stage.send(stage.harness.image(scene()))
        time.sleep(0.1)
    level = DiagnosticStatus.ERROR
    assert stage.harness.until(
        lambda: any(s.level == level for d in stage.harness.diagnostics for s in d.status), 3
    ), 'diagnostics do not say ERROR'
    session.update = update
    return {'failed': 3, 'mistakes': 3}


def shrinks(stage: Scene) -> dict[str, int]:
    """Lost tracks, somebody who looks at the label mask, and an image that becomes smaller."""
    harness = stage.harness
    harness.peer.create_subscription(Image, '/masa_tracker/label_mask', lambda m: None, 10)
    harness.peer.create_subscription(Image, '/masa_tracker/overlay', lambda m: None, 10)
    labels = harness.cameras[0].outputs._label_mask
    assert harness.until(lambda: labels.get_subscription_count() == 1)
    for size in ((480, 640), (120, 160), (60, 300), (480, 640)):
        picture = scene(size=(480, 640))[: size[0], : size[1]]
        for pixels in (picture, np.full_like(picture, 90)):
            answer = harness.exchange(stage.good(pixels))
            assert answer is not None, size
            for i in answer.instances:
                assert 0 <= i.x_min <= i.x_max <= size[1] and 0 <= i.y_min <= i.y_max <= size[0]
                assert i.mask_x + i.mask_width <= size[1]
                assert i.mask_y + i.mask_height <= size[0]
    return {'processed': 9, 'event_size_change': 4}


def crowd(stage: Scene) -> dict[str, int]:
    for _ in range(6):  # objects are looked for in one of five
        answer = stage.harness.exchange(stage.good())
        assert answer is not None and len(answer.instances) <= 2
    return {'processed': 7, 'detections_refused': 1, 'tracks_in_memory': 1}


def nothing_found(stage: Scene) -> dict[str, int]:
    assert set_parameter(stage.harness, 'score_threshold', 1.0).successful
    stage.stream(3.0)
    empty = lambda: all(  # noqa: E731
        stage.harness.report(key) == '0' for key in ('memory_bytes', 'tracks_in_memory')
    )
    assert stage.harness.until(empty), 'something is remembered'
    assert set_parameter(stage.harness, 'score_threshold', 0.0).successful
    return {'objects_deleted': 1}


def replaced_weights(stage: Scene) -> dict[str, int]:
    node = stage.harness.node
    path = Path(node.get_parameter('weights').value)
    whole = path.read_bytes()
    node.trigger_deactivate()
    node.trigger_cleanup()
    try:
        for garbage in (b'', os.urandom(5000), whole[: len(whole) // 2]):
            path.write_bytes(garbage)
            node.trigger_configure()
            assert stage.state() == State.PRIMARY_STATE_UNCONFIGURED
    finally:
        path.write_bytes(whole)
    node.trigger_configure()
    node.trigger_activate()
    stage.harness.wait_until_tracking()
    return {}


def out_of_memory() -> Exception:
    return torch.cuda.OutOfMemoryError('CUDA out of memory')
