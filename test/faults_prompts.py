# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What goes wrong with what somebody points at."""

import time

import numpy as np
from conftest import scene
from fault_scene import Scene
from masa_ros.srv import AddObject, CorrectObject, RemoveObject
from rclpy.qos import QoSProfile
from ros_harness import PATIENCE, SECOND, call

from masa_ros.nodes.messages import ns_to_stamp


def _add(stage: Scene, **fields: object) -> AddObject.Response:
    request = AddObject.Request(**fields)
    return call(stage.harness, AddObject, '/masa_tracker/add_object', request)


def _mask(x: int, y: int, width: int, height: int) -> dict[str, object]:
    """Fields of a mask that is a rectangle."""
    return {
        **{'mask_encoding': 1, 'mask_x': x, 'mask_y': y},
        **{'mask_width': width, 'mask_height': height, 'mask_counts': [0, width * height]},
    }


def bad(stage: Scene) -> dict[str, int]:
    assert _add(stage, **_mask(60, 60, 40, 40)).success
    wrong = [
        {},
        {'points': [1.0, 2.0, 3.0]},
        {'points': [np.inf, 2.0]},
        {'points': [5000.0, 2.0]},
        {'points': [70.0, 80.0], 'positive': [False]},
        {'box': [50.0, 50.0, 20.0, 20.0]},
        {'box': [5000.0, 50.0, 6000.0, 90.0]},
        _mask(300, 200, 90, 90),
        _mask(60, 60, 40, 40) | {'mask_counts': [7]},
        _mask(60, 60, 40, 40) | {'mask_counts': [1600]},
        _mask(0, 0, 1 << 16, 1 << 15) | {'mask_counts': [1 << 31]},
        {'camera': 'none', 'points': [70.0, 80.0]},
        {'points': [70.0, 80.0], 'name': 'n' * 1000},
    ]
    for fields in wrong:
        answer = _add(stage, **fields)
        assert not answer.success and answer.message and not answer.instances, fields
    for kind, name in ((RemoveObject, 'remove_object'), (CorrectObject, 'correct_object')):
        for track_id in (0, 77, (1 << 64) - 1):
            request = kind.Request(track_id=track_id)
            answer = call(stage.harness, kind, f'/masa_tracker/{name}', request)
            assert not answer.success and answer.message
    return {'event_prompt_refused': len(wrong) + 6, 'prompts': 1}


def gone(stage: Scene) -> dict[str, int]:
    shown = [stage.good() for _ in range(9)]
    for message in shown:
        assert stage.harness.exchange(message) is not None
    old = _add(stage, stamp=shown[0].header.stamp, **_mask(60, 60, 40, 40))
    assert not old.success and 'the image is gone' in old.message
    assert not _add(stage, stamp=ns_to_stamp(SECOND), **_mask(60, 60, 40, 40)).success
    held = _add(stage, stamp=shown[-4].header.stamp, **_mask(60, 60, 40, 40))
    assert held.success and held.header == shown[-4].header, held.message
    return {'event_prompt_refused': 2, 'prompts': 1}


def flood(stage: Scene) -> dict[str, int]:
    harness = stage.harness
    many = QoSProfile(depth=100)
    client = harness.peer.create_client(AddObject, '/masa_tracker/add_object', qos_profile=many)
    assert client.wait_for_service(PATIENCE)
    futures, before = [], stage.harness.cameras[0].statistics.processed
    for number in range(80):
        request = AddObject.Request(**_mask(4 * number % 200, 60, 20, 20))
        futures.append(client.call_async(request))
        if number % 8 == 0:
            stage.send(stage.good())
        time.sleep(0.02)
    assert harness.until(lambda: all(f.done() for f in futures)), 'somebody gets no answer'
    followed = sum(f.result().success for f in futures)
    assert followed == 3 and all(f.result().success or f.result().message for f in futures)
    assert harness.cameras[0].statistics.processed > before
    return {'prompts': followed, 'event_prompt_refused': 80 - followed}


def changing_size(stage: Scene) -> dict[str, int]:
    harness = stage.harness
    assert _add(stage, **_mask(60, 60, 40, 40)).success
    small = stage.good(scene()[::2, ::2])
    assert harness.exchange(small) is not None
    beyond = _add(stage, **_mask(160, 110, 40, 40))
    assert not beyond.success and 'reaches beyond the 160x120 image' in beyond.message
    assert _add(stage, **_mask(100, 60, 20, 20)).success
    answer = harness.exchange(stage.good(scene()))
    assert {i.track_id for i in answer.instances} <= {1, 2}
    before = _add(stage, stamp=small.header.stamp, **_mask(20, 20, 20, 20))
    assert not before.success and before.message == 'the images have changed their size since'
    return {'event_prompt_refused': 2, 'prompts': 2, 'event_size_change': 2}


def mistake(stage: Scene) -> dict[str, int]:
    session = stage.harness.cameras[0].stream._session

    def wrong(*arguments):
        raise IndexError('of a programmer')

    followed, session.prompt = session.prompt, wrong
    answer = _add(stage, **_mask(60, 60, 40, 40))
    assert not answer.success and 'IndexError' in answer.message
    session.prompt = followed
    assert _add(stage, **_mask(60, 60, 40, 40)).success
    return {'mistakes': 1, 'prompts': 1}
