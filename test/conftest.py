# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Shared by all tests: seeded weights, and a ROS domain of their own."""

import os
import random
import sys

# Before rclpy is imported anywhere. A fresh domain: another test run on this machine, or a robot
# in the same network, must not be heard. Domains up to 101 have free ports on every system.
os.environ['ROS_DOMAIN_ID'] = str(random.SystemRandom().randint(2, 100))
os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')

# Before torch is imported: threads that wait for each other must not keep the cores busy that
# other processes of the tests need.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from masa_ros.engines.openvino import OpenVINO
from masa_ros.models import checkpoints
from masa_ros.models.network import MasaNetwork
from masa_ros.models.zoo import model_config

torch.set_num_threads(2)

# How fast an example is is no property of the code.
settings.register_profile('tests', deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile('tests')

# Networks run as on a machine without OpenVINO, but where it is what is tested.
openvino_missing = OpenVINO.missing
OpenVINO.missing = lambda self, device: 'left out of this test'


def see_much(network):
    """Let a network with random weights find many boxes."""
    for output in network.proposals.known.output:
        torch.nn.init.normal_(output.weight, std=0.1)
        torch.nn.init.zeros_(output.bias)


def seeded_weights_file(path):
    """Write a weights file of masa_nano with random weights that find many boxes."""
    torch.manual_seed(0)
    network = MasaNetwork(model_config('masa_nano').network)
    see_much(network)
    checkpoints.save(network, path, {'model': 'masa_nano'})
    return path


@pytest.fixture(scope='session')
def seeded_weights(tmp_path_factory):
    """The same for all tests."""
    return seeded_weights_file(tmp_path_factory.mktemp('weights') / 'nano.safetensors')


def pytest_terminal_summary(terminalreporter):
    """Print the table of the engines that were built."""
    module = sys.modules.get('test_engine_builds')
    if module is None or not module.TABLE:
        return
    terminalreporter.section('TensorRT engines built, all operators converted')
    terminalreporter.line(
        f'{"model":36}{"stage":8}{"operators":>10}{"kinds":>7}{"MiB":>8}{"s":>7}'
    )
    for case, stage, operators, kinds, size, seconds in module.TABLE:
        terminalreporter.line(
            f'{case:36}{stage:8}{operators:10}{kinds:7}{size / 2**20:8.1f}{seconds:7.1f}'
        )


def scene(shift=0, size=(240, 320)):
    """A picture of three plain bodies on a soft ground, moved right by ``shift`` pixels."""
    import cv2

    height, width = size
    image = np.full((height, width, 3), (90, 110, 100), np.uint8)
    image += np.linspace(0, 40, width).astype(np.uint8)[None, :, None]
    cv2.circle(image, (70 + shift, 80), 34, (220, 60, 50), -1, cv2.LINE_AA)
    cv2.rectangle(image, (180 + shift, 110), (250 + shift, 190), (40, 70, 210), -1)
    cv2.ellipse(image, (90, 180), (50, 24), 0, 0, 360, (240, 210, 60), -1, cv2.LINE_AA)
    return image
