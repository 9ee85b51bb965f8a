# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Nodes that are loaded into one process."""

import contextlib
import threading
from types import SimpleNamespace

import pytest
import rclpy
from conftest import scene
from rclpy.executors import ExternalShutdownException
from rclpy.logging import LoggingSeverity
from rclpy.parameter import Parameter
from ros_harness import Peer

from masa_ros.errors import ConfigError
from masa_ros.nodes.container import Container

pytestmark = pytest.mark.ros
TRACKER = 'masa_ros::TrackerNode'


@pytest.fixture
def container():
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    made = Container(context=context)

    def spin():
        with contextlib.suppress(ExternalShutdownException):
            made.executor_.spin()

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    yield made
    rclpy.shutdown(context=context)
    thread.join(5)
    made.destroy_node()


def options(weights):
    values = {'weights': str(weights), 'device': 'cpu', 'input_size': 192}
    return [Parameter(name, value=value) for name, value in values.items()]


def test_nodes_are_loaded_run_and_are_unloaded(container, seeded_weights):
    first, second = (
        container.load(TRACKER, 'masa_tracker', f'/{side}', (), options(seeded_weights))
        for side in ('left', 'right')
    )
    names = {number: node.get_fully_qualified_name() for number, node in container.loaded.items()}
    assert names == {first: '/left/masa_tracker', second: '/right/masa_tracker'}
    for side in ('left', 'right'):
        with contextlib.closing(Peer(side)) as peer:
            peer.meet()
            message = peer.image(scene())
            assert peer.exchange(message).header == message.header
    container.unload(first)
    assert list(container.loaded) == [second]
    with contextlib.closing(Peer('witness')) as peer:
        nodes = peer.node.get_node_names_and_namespaces
        assert peer.until(lambda: ('masa_tracker', '/right') in nodes())
        assert peer.until(lambda: ('masa_tracker', '/left') not in nodes())
    with pytest.raises(ConfigError, match='no node has the number'):
        container.unload(first)


def test_remaps_reach_the_node(container, seeded_weights):
    container.load(
        TRACKER, 'eyes', '', ('image_raw:=/remapped/image_raw',), options(seeded_weights)
    )
    with contextlib.closing(Peer('remapped')) as peer:
        assert peer.until(lambda: peer.images.get_subscription_count())


@pytest.mark.parametrize(
    'plugin, parameters, words',
    [
        ('nobody::Nothing', [], "no component is called 'nobody::Nothing'"),
        (TRACKER, [Parameter('memo_momentum', value=7.0)], 'does not start: .*memo_momentum'),
    ],
)
def test_what_cannot_be_loaded_is_named(container, plugin, parameters, words):
    with pytest.raises(ConfigError, match=words):
        container.load(plugin, parameters=parameters)
    assert not container.loaded


def request(weights, **fields):
    """What composition_interfaces/srv/LoadNode asks for."""
    given = {'plugin_name': TRACKER, 'node_name': 'eyes', 'node_namespace': '', 'log_level': 0}
    given |= {'remap_rules': [], 'extra_arguments': []}
    given['parameters'] = [each.to_parameter_msg() for each in options(weights)]
    return SimpleNamespace(**given | fields)


def test_the_log_level_and_extra_arguments_of_a_request_are_obeyed(
    container, seeded_weights, capfd
):
    extra = [
        Parameter('use_intra_process_comms', value=True).to_parameter_msg(),
        Parameter('colour', value='red').to_parameter_msg(),
    ]
    asked = request(seeded_weights, log_level=40, extra_arguments=extra)
    answer = container._on_load(asked, SimpleNamespace())
    assert answer.success and answer.full_node_name == '/eyes'
    node = container.loaded[answer.unique_id]
    assert node.get_logger().get_effective_level() == LoggingSeverity.ERROR
    assert 'mean nothing here: colour' in capfd.readouterr().err
    wrong = container._on_load(request(seeded_weights, log_level=7), SimpleNamespace())
    assert not wrong.success and 'log_level is 7' in wrong.error_message
