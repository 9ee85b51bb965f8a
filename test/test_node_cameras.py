# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Several cameras of one tracker node."""

import time

import pytest
import torch
from conftest import scene
from ros_harness import Harness, Peer, logs

from masa_ros import methods

pytestmark = pytest.mark.ros


@pytest.fixture
def two_cameras(request, seeded_weights):
    """A node for a front and a rear camera, how many images it saw at once, and the cameras."""
    batches = []

    def load(*arguments):
        method = methods.load(*arguments)
        encode = method.encode

        def counted(frames):
            batches.append(len(frames))
            return encode(frames)

        method.encode = counted
        return method

    overrides = {
        **{'weights': str(seeded_weights), 'device': 'cpu', 'input_size': 192},
        **{'score_threshold': 0.0, 'init_score_thr': 0.0, 'publish_tentative': True},
        'cameras': ['front', 'rear'],
    }
    harness = Harness(overrides | getattr(request, 'param', {}), load)
    cameras = {name: Peer(name, harness.context) for name in ('front', 'rear')}
    for camera in cameras.values():
        assert camera.until(lambda camera=camera: camera.images.get_subscription_count())
    yield harness, cameras, batches
    for camera in cameras.values():
        camera.close()
    harness.close()


def test_two_cameras_have_tracks_of_their_own(two_cameras):
    harness, cameras, batches = two_cameras
    ids = {}
    for name, camera in cameras.items():
        for shift in range(3):
            message = camera.image(scene(shift))
            answer = camera.exchange(message)
            assert answer.header == message.header
        ids[name] = {i.track_id for i in answer.instances}
        assert ids[name] and min(ids[name]) == 1, 'ids begin at 1 for every camera'
    for _ in range(20):  # what comes together is one batch
        for camera in cameras.values():
            camera.images.publish(camera.image(scene()))
        time.sleep(0.05)
    assert 2 in batches
    names = ('masa_tracker: front', 'masa_tracker: rear')
    seen = {s.name for d in harness.diagnostics for s in d.status}
    assert harness.until(
        lambda: (
            seen.update(s.name for d in harness.diagnostics for s in d.status)
            or seen >= set(names)
        )
    )


@pytest.mark.parametrize('two_cameras', [{'common_ids': True}], indirect=True)
def test_ids_of_cameras_can_be_in_common(two_cameras):
    _, cameras, _ = two_cameras
    front, rear = (
        {i.track_id for i in camera.exchange(camera.image(scene())).instances}
        for camera in cameras.values()
    )
    assert front and rear and front.isdisjoint(rear)


def test_a_camera_that_floods_does_not_starve_the_other(two_cameras):
    harness, cameras, _ = two_cameras
    front, rear = cameras['front'], cameras['rear']
    offer = harness.node.offer  # a topic may lose images
    for _ in range(10):
        answered, turns = len(rear.tracks), len(front.tracks)
        offer(rear.image(scene()), 'rear')
        while len(rear.tracks) == answered:
            offer(front.image(scene()), 'front')
            front.until(lambda: False, 0.003)
            rear.until(lambda: False, 0.003)
            assert len(front.tracks) <= turns + 3, 'it is its turn after the image in work'


def test_a_batch_that_is_too_much_is_taken_apart_from_then_on(two_cameras):
    harness, cameras, batches = two_cameras
    method = harness.node._work.method
    encode = method.encode

    def small(frames):
        if len(frames) > 1:
            batches.append(len(frames))
            raise torch.cuda.OutOfMemoryError('CUDA out of memory')
        return encode(frames)

    method.encode = small
    for _ in range(20):
        for name, camera in cameras.items():  # two follow while the first one is in work
            harness.node.offer(camera.image(scene()), name)
        time.sleep(0.05)
    assert batches.count(2) == 1
    for name, camera in cameras.items():
        assert camera.until(lambda camera=camera: camera.tracks)
        statistics = harness.node._statistics[name]
        assert statistics.events['batch'] == 1 and statistics.failed == 0


def test_cameras_must_have_names_of_topics(seeded_weights, capfd):
    for names, words in ((['front', 'front'], 'names one twice'), (['a b'], "'a b'")):
        harness = Harness({'weights': str(seeded_weights), 'cameras': names})
        try:
            assert logs(harness, capfd, words)
        finally:
            harness.close()
