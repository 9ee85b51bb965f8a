# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The life of the tracker node: transitions, processes, engines."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import scene
from engine_kit import Pretended
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.exceptions import InvalidParameterValueException
from ros_harness import PATIENCE, Harness, Peer, call, set_parameter, tracking, warned

from masa_ros.engines import runtimes
from masa_ros.methods import METHODS

pytestmark = pytest.mark.ros


@pytest.fixture
def harness(request, seeded_weights):
    """A tracking node; parametrise indirectly with parameter overrides."""
    with contextlib.closing(tracking(seeded_weights, **getattr(request, 'param', {}))) as made:
        yield made


@pytest.mark.parametrize('harness', [{'autostart': False}], indirect=True)
def test_lifecycle(harness, capfd):
    def change(transition):
        request = ChangeState.Request(transition=Transition(id=transition))
        return call(harness, ChangeState, '/masa_tracker/change_state', request).success

    def state():
        return call(
            harness, GetState, '/masa_tracker/get_state', GetState.Request()
        ).current_state.label

    assert state() == 'unconfigured'
    assert harness.images.get_subscription_count() == 0
    assert change(Transition.TRANSITION_CONFIGURE)
    assert state() == 'inactive'
    assert harness.images.get_subscription_count() == 0
    for _ in range(2):
        assert change(Transition.TRANSITION_ACTIVATE)
        harness.wait_until_tracking()
        assert harness.exchange(harness.image(scene()))
        assert change(Transition.TRANSITION_DEACTIVATE)
        assert harness.until(lambda: harness.images.get_subscription_count() == 0)
    assert change(Transition.TRANSITION_CLEANUP)
    assert state() == 'unconfigured'
    assert set_parameter(harness, 'weights', '/nowhere.safetensors').successful
    assert not change(Transition.TRANSITION_CONFIGURE)
    assert state() == 'unconfigured'
    assert len(warned(capfd, '/nowhere.safetensors')) == 1


@pytest.mark.parametrize('harness', [{'autostart': False}], indirect=True)
def test_transitions_out_of_turn_change_nothing(harness):
    def change(transition):
        request = ChangeState.Request(transition=Transition(id=transition))
        return call(harness, ChangeState, '/masa_tracker/change_state', request).success

    assert not change(Transition.TRANSITION_ACTIVATE)
    assert change(Transition.TRANSITION_CONFIGURE)
    assert not change(Transition.TRANSITION_CONFIGURE)
    assert change(Transition.TRANSITION_ACTIVATE)
    for wrong in (Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_CLEANUP):
        assert not change(wrong)
    harness.wait_until_tracking()
    assert harness.exchange(harness.image(scene()))


def test_parameters_are_read_again_when_the_node_is_configured(harness):
    def change(transition):
        request = ChangeState.Request(transition=Transition(id=transition))
        assert call(harness, ChangeState, '/masa_tracker/change_state', request).success

    assert harness.exchange(harness.image(scene()))
    change(Transition.TRANSITION_DEACTIVATE)
    change(Transition.TRANSITION_CLEANUP)
    assert harness.until(lambda: harness.images.get_subscription_count() == 0)
    assert set_parameter(harness, 'cameras', ['roof']).successful
    change(Transition.TRANSITION_CONFIGURE)
    change(Transition.TRANSITION_ACTIVATE)
    roof = Peer('roof', harness.context)
    try:
        roof.meet()
        message = roof.image(scene())
        assert roof.exchange(message).header == message.header
        assert harness.images.get_subscription_count() == 0
    finally:
        roof.close()


def test_options_of_one_name_have_the_defaults_of_the_method():
    """What is set stays set: before the start, and while the node runs."""
    for given, chosen in (({}, 'nothing'), ({'find': 'everything'}, 'everything')):
        more = {'method': 'sam_track', 'autostart': False, **given}
        with contextlib.closing(Harness(more)) as harness:
            assert harness.node.get_parameter('find').value == chosen
            assert set_parameter(harness, 'min_new', 0.5).successful
            assert set_parameter(harness, 'find', 'words').successful
            assert set_parameter(harness, 'method', 'deva').successful
            harness.node._options.read()
            assert harness.node.get_parameter('find').value == 'words'
            assert not harness.node.has_parameter('min_new')
            assert set_parameter(harness, 'find', chosen).successful


def test_a_node_that_is_destroyed_leaves_the_graph(seeded_weights):
    witness = Peer('witness')
    names = witness.node.get_node_names
    gc.disable()  # what only waits for it is not gone
    try:
        harness = Harness({'weights': str(seeded_weights), 'device': 'cpu'})
        harness.wait_until_tracking()
        assert witness.until(lambda: 'masa_tracker' in names())
        harness.close()
        assert witness.until(lambda: 'masa_tracker' not in names())
        with pytest.raises(InvalidParameterValueException):
            Harness({'memo_momentum': 7.0})
        assert witness.until(lambda: 'masa_tracker' not in names())
    finally:
        gc.enable()
        witness.close()


def ends_with_its_last_image(number, weights):
    """Whether a process that is told to end in the middle of an image still answers it."""
    options = {'device': 'cpu', 'weights': weights, 'input_size': 960}
    parameters = [word for k, v in options.items() for word in ('-p', f'{k}:={v}')]
    parameters += ['-r', '__ns:=/ending']
    process = subprocess.Popen(
        [*(sys.executable, '-m', 'masa_ros.cli', 'node', '--ros-args'), *parameters],
        cwd='/',
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {'RCUTILS_LOGGING_BUFFERED_STREAM': '0'},
    )
    peer = Peer('ending')
    try:
        seen = ''
        for line in process.stdout:
            seen += line
            if 'tracking /ending/image_raw' in line:
                break
        peer.meet()
        last = peer.image(scene())
        peer.images.publish(last)
        peer.until(lambda: False, 0.05)  # it has come by then, and the network takes longer
        in_work = peer.tracks[-1].header != last.header
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0, seen + process.stdout.read()
        answered = peer.until(lambda: peer.tracks[-1].header == last.header, 10)
        assert 'Traceback' not in process.stdout.read()
        assert peer.until(lambda: 'masa_tracker' not in peer.node.get_node_names(), 10)
        return in_work and answered
    finally:
        process.kill()
        peer.close()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_the_process_ends_cleanly_with_its_last_image_published(number, seeded_weights):
    # On a busy machine, or a fast one, the signal may not meet the image in work.
    assert any(ends_with_its_last_image(number, seeded_weights) for _ in range(4))


def test_a_bad_parameter_is_one_line():
    result = subprocess.run(
        [sys.executable, '-m', 'masa_ros.cli', 'node', '--ros-args', '-p', 'memo_momentum:=7.0'],
        cwd='/',
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert result.returncode == 2
    assert 'memo_momentum' in result.stderr
    assert 'Traceback' not in result.stderr


class Slow(Pretended):
    """A runtime whose engines take a while to build and are eager ones in the end."""

    name, keeps = 'compile', False

    def build(self, stage, inputs):
        time.sleep(0.8)
        return b''


@pytest.fixture
def slow_engines(monkeypatch, seeded_weights):
    monkeypatch.setitem(runtimes.RUNTIMES, 'compile', Slow())
    return {
        'weights': str(seeded_weights),
        'device': 'cpu',
        'input_size': 192,
        'runtime': 'compile',
        'camera_size': '320x240',
    }


def test_a_warm_start_tracks_while_engines_are_built(slow_engines):
    harness = Harness(slow_engines)
    try:
        harness.wait_until_tracking()
        assert harness.exchange(harness.image(scene()))
        assert harness.until(lambda: any('building' in r for r in harness.reports('engines')))
        assert harness.exchange(harness.image(scene()))
        assert harness.until(lambda: 'masks compile fp32' in harness.report('engines'))
        assert harness.exchange(harness.image(scene()))
        assert harness.report('failed') == '0'
    finally:
        harness.close()


def test_without_a_warm_start_images_wait_for_the_engines(slow_engines):
    harness = Harness(slow_engines | {'warm_start': False})
    try:
        harness.wait_until_tracking()
        harness.images.publish(harness.image(scene()))
        assert harness.until(lambda: harness.tracks)
        assert harness.until(lambda: 'masks compile fp32' in harness.report('engines'))
    finally:
        harness.close()


@pytest.mark.parametrize('method', METHODS)
def test_a_node_that_only_builds_ends_when_it_has_built(slow_engines, capfd, method):
    harness = Harness(slow_engines | {'build_only': True, 'method': method})
    try:
        assert harness.until(harness.node.finished.done)
        assert harness.node.finished.result() == 0
        assert not harness.tracks and harness.images.get_subscription_count() == 0
        (line,) = warned(capfd, 'build_only: ')
        networks = 2 if method in ('deva', 'sam_track') else 1  # a propagator beside the detector
        assert line.count('image compile fp32') == networks
    finally:
        harness.close()


def test_only_building_needs_to_know_for_what(seeded_weights):
    process = subprocess.run(
        [
            *(
                sys.executable,
                '-m',
                'masa_ros.cli',
                'node',
                '--ros-args',
                '-p',
                'build_only:=true',
            ),
            *('-p', f'weights:={seeded_weights}'),
        ],
        capture_output=True,
        text=True,
        timeout=500,
        cwd='/',
    )
    assert process.returncode == 1
    assert 'build_only needs camera_size' in process.stdout + process.stderr
