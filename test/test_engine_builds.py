# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Every stage of every model becomes one TensorRT engine: built here, without a GPU to run it.

``make setup-engines`` installs what this needs; the table at the end of the run lists the engines.
"""

import dataclasses
import importlib.util
import time
from collections import Counter

import numpy as np
import pytest
import torch
from no_gpu import pretended_gpu

from masa_ros.engines.tensorrt import TensorRT, export
from masa_ros.models.aot.network import AotSizes, DeAotNetwork
from masa_ros.models.deva.network import DevaNetwork, DevaSizes
from masa_ros.models.masa_stages import masa_stages
from masa_ros.models.network import MasaNetwork
from masa_ros.models.pips import Pips
from masa_ros.models.precision import PRECISIONS, storage
from masa_ros.models.zoo import model_config
from masa_ros.point_trackers.pips import PipsTracker
from masa_ros.propagators.deaot import DeaotPropagator, DeaotPropagatorConfig
from masa_ros.propagators.deva import DevaPropagator, DevaPropagatorConfig
from masa_ros.propagators.nano import NanoPropagator, NanoPropagatorConfig

pytestmark = [
    pytest.mark.engines,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        importlib.util.find_spec('torch_tensorrt') is None,
        reason='torch-tensorrt is not installed: make setup-engines',
    ),
]

TABLE = []


def shallow(name, **backbone):
    """The model with fewer layers of each kind."""
    model = model_config(name)
    network = dataclasses.replace(
        model.network,
        backbone=dataclasses.replace(model.network.backbone, **backbone),
        fusion_blocks=1,
    )
    return dataclasses.replace(model, network=network)


# The released models share their heads: built with all of them would be built several times.
ALL, IMAGE = ('image', 'boxes', 'embeddings', 'masks'), ('image',)
CASES = {
    'masa_nano fp32': (model_config('masa_nano'), 'fp32', (384, 512), ALL),
    'masa_nano fp16': (model_config('masa_nano'), 'fp16', (384, 512), ALL),
    'masa_nano mixed': (model_config('masa_nano'), 'mixed', (384, 512), IMAGE),
    'masa_r50 fp16': (model_config('masa_r50'), 'fp16', (576, 1024), ALL),
    'masa_sam_vitb fp16, 4 of 12 blocks': (
        shallow('masa_sam_vitb', depth=4, global_blocks=(1,), taps=(0, 1, 2, 3)),
        'fp16',
        (1024, 1024),
        ALL,
    ),
    'masa_sam_vith fp32, 4 of 32 blocks': (
        shallow('masa_sam_vith', depth=4, global_blocks=(1,), taps=(0, 1, 2, 3)),
        'fp32',
        (1024, 1024),
        IMAGE,
    ),
    'masa_sam_mobile fp16': (model_config('masa_sam_mobile'), 'fp16', (1024, 1024), ALL),
    'masa_detic fp16, 8 of 24 blocks': (
        shallow('masa_detic', depths=(2, 2, 2, 2)),
        'fp16',
        (480, 640),
        IMAGE,
    ),
    'masa_gdino fp32, 8 of 24 blocks': (
        shallow('masa_gdino', depths=(2, 2, 2, 2)),
        'fp32',
        (480, 640),
        IMAGE,
    ),
}


def example(stage, made, dtype):
    """Inputs of a stage: what the image stage makes has known shapes, boxes are any."""
    boxes = torch.tensor([[10.0, 20, 200, 150], [0, 0, 256, 256], [100, 100, 300, 103]])
    return stage.arrange({'boxes': boxes, **made}, dtype)


@pytest.fixture(scope='module', autouse=True)
def _build_without_a_gpu():
    with pretended_gpu():
        yield


def build(case, stage, inputs):
    """Build an engine and add a line to the table; returns the exported program."""
    program = export(stage, inputs)
    operators = Counter(str(n.target) for n in program.graph.nodes if n.op == 'call_function')
    start = time.perf_counter()
    engine = TensorRT().build(stage, inputs)
    seconds = time.perf_counter() - start
    TABLE.append((case, stage.name, operators.total(), len(operators), len(engine), seconds))
    assert len(engine) > 10_000
    return program


@pytest.mark.parametrize('case', CASES)
def test_all_stages_become_engines(case):
    model, precision, shape, names = CASES[case]
    torch.manual_seed(0)
    network = MasaNetwork(model.network).eval()
    PRECISIONS[precision](network)
    dtype = storage(precision)
    images = torch.zeros(1, 3, *shape, dtype=dtype)
    made = {'images': images}
    if network.masks is not None and network.masks.reads_pooled:
        made['pooled'] = torch.zeros(3, model.network.channels, 7, 7, dtype=dtype)
    for name, stage in masa_stages(network, model).items():
        if name not in names:
            continue
        program = build(case, stage, example(stage, made, dtype))
        if name == 'image':
            outputs = program.graph.find_nodes(op='output')[0].args[0]
            made |= {
                key: torch.zeros(node.meta['val'].shape, dtype=node.meta['val'].dtype)
                for key, node in zip(stage.outputs, outputs)
            }


FOLLOWERS = {
    'nano': (lambda: NanoPropagator.load(NanoPropagatorConfig(), 'cpu'), (384, 512)),
    'deva': (
        lambda: DevaPropagator(DevaNetwork(DevaSizes()), DevaPropagatorConfig(), 'cpu'),
        (480, 640),
    ),
    'deaot': (
        lambda: DeaotPropagator(DeAotNetwork(AotSizes()), DeaotPropagatorConfig(), 'cpu'),
        (241, 321),
    ),
    'pips': (lambda: PipsTracker(Pips()), (240, 320)),
}


@pytest.mark.parametrize('name', FOLLOWERS)
def test_what_follows_objects_becomes_engines(name):
    make, shape = FOLLOWERS[name]
    torch.manual_seed(0)
    network = make()
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    (case,) = network.cases([image])
    for stage in network.stages_in('fp16').values():
        stage.times = 1  # iterations of PIPs, which are alike
        build(f'{name} fp16', stage, stage.arrange(case.inputs[stage.name], torch.float16))
