# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What several tests of the engines need: a small detector, a runtime that only pretends."""

import time

import pytest
import torch
from conftest import see_much

from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.engines import runtimes
from masa_ros.engines.prepare import EngineConfig, Engines
from masa_ros.errors import EngineError
from masa_ros.models.network import MasaNetwork
from masa_ros.models.stages import Eager
from masa_ros.models.zoo import model_config

SIZE = (240, 320)
SHAPE = (192, 256)
"""Of the network input for images of that size."""
STAGES = ['image', 'boxes', 'embeddings', 'masks']
"""Of masa_nano2; those of masa_nano are the same without 'boxes'."""
BOTH = pytest.mark.parametrize('name', ['masa_nano', 'masa_nano2'])


def detector(precision='fp32', seed=0, spoil=None, name='masa_nano2'):
    """masa_nano2, which has all stages, or another, with random weights that find much."""
    torch.manual_seed(seed)
    model = model_config(name)
    network = MasaNetwork(model.network)
    if network.boxes is None:
        see_much(network)
    else:
        torch.nn.init.normal_(network.boxes.cls.weight, std=0.5)
    if spoil:
        spoil(network)
    config = DetectorConfig(device='cpu', precision=precision, input_size=256)
    found = MasaDetector(model, network, config, 'cpu')
    if precision != 'fp32':
        found.reference = lambda: detector(seed=seed, spoil=spoil, name=name)
    return found


class Pretended:
    """A runtime in name only: nothing is missing, nothing is built, PyTorch runs.

    Tests say what is different.
    """

    name, keeps = 'pretended', False

    def missing(self, device):
        return ''

    def version(self):
        return '1'

    def lower(self, device):
        return ''

    def build(self, stage, inputs):
        return b''

    def load(self, stage, data, dtype, device):
        return Eager(stage, dtype)


class Recorded(Pretended):
    """A runtime that keeps something on disk, runs eagerly and remembers what it was asked.

    Attributes
    ----------
    delay: seconds that every engine takes.
    refused: names of stages whose engine is not accepted the next time.
    wrap: makes what runs a stage of what would.

    """

    name, keeps = 'recorded', True

    def __init__(self):
        self.built, self.loaded, self.refused = [], [], []
        self.delay, self.wrap = 0.0, lambda run: run

    def build(self, stage, inputs):
        time.sleep(self.delay)
        self.built.append(stage.name)
        return f'engine of {stage.name}'.encode()

    def load(self, stage, data, dtype, device):
        if data != f'engine of {stage.name}'.encode() or stage.name in self.refused:
            self.refused = [name for name in self.refused if name != stage.name]
            raise EngineError(f'{stage.name}: TensorRT does not accept the engine')
        self.loaded.append(stage.name)
        return self.wrap(Eager(stage, dtype))


def registered(monkeypatch):
    """Make a pretended runtime known; the fixture ``runtime`` of the tests."""
    recorded = Recorded()
    monkeypatch.setitem(runtimes.RUNTIMES, 'recorded', recorded)
    return recorded


def engines_of(network, folder, **options):
    """Engines of a network, run by them from now on, and the lines that they log."""
    lines = []
    config = EngineConfig(**{'runtime': 'recorded', 'folder': str(folder), **options})
    engines = Engines(network, config, lines.append)
    network.runs = engines.runs
    return engines, lines


def wait_until(condition, seconds=60.0):
    """Fail where something does not become true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail('it did not happen in time')
        time.sleep(0.01)
