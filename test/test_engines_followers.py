# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Engines of the networks that carry masks on and follow points, by a runtime that pretends."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from conftest import scene
from engine_kit import engines_of, registered

from masa_ros import options
from masa_ros.cli import main
from masa_ros.engines import prepare, trust
from masa_ros.errors import EngineError
from masa_ros.methods import METHODS
from masa_ros.models.aot.network import AotSizes, DeAotNetwork
from masa_ros.models.deva.network import DevaNetwork, DevaSizes
from masa_ros.models.pips import FRAMES, Pips
from masa_ros.models.stages import Eager
from masa_ros.point_trackers.pips import PipsConfig, PipsTracker
from masa_ros.propagators.deaot import DeaotPropagator, DeaotPropagatorConfig
from masa_ros.propagators.deva import DevaPropagator, DevaPropagatorConfig
from masa_ros.propagators.nano import NanoPropagator, NanoPropagatorConfig
from masa_ros.streams.stream import Stream
from masa_ros.types import Frame

runtime = pytest.fixture(name='runtime')(registered)
SHAPE = {'nano': (96, 128), 'deva': (96, 128), 'deaot': (97, 129), 'pips': (96, 128)}
STAGES = {
    'nano': ['image', 'masks', 'values'],
    'deva': ['image', 'masks', 'values'],
    'deaot': ['image', 'masks'],
    'pips': ['image', 'window'],
}
SMALL = DevaSizes(8, 32, 16, 8, 16, (1, 1, 1), (1, 1, 1))
CARRIERS = ['nano', 'deva', 'deaot']


def loaded(name, precision='fp32'):
    """A network with the same weights every time; that of nano is the one that is shipped."""
    torch.manual_seed(0)
    if name == 'nano':
        made = NanoPropagator.load(NanoPropagatorConfig(size=128), 'cpu')
        config = dataclasses.replace(made.config, precision=precision)
        return NanoPropagator(made.network, config, 'cpu')
    if name == 'deva':
        config = DevaPropagatorConfig(size=0, precision=precision)
        return DevaPropagator(DevaNetwork(SMALL), config, 'cpu')
    if name == 'deaot':
        sizes = AotSizes(8, (1, 1, 1), embed=32, layers=2, reach=2)
        return DeaotPropagator(
            DeAotNetwork(sizes), DeaotPropagatorConfig(precision=precision), 'cpu'
        )
    return PipsTracker(Pips(), PipsConfig(precision=precision))


def video(name, count):
    height, width = SHAPE[name]
    return [Frame(np.ascontiguousarray(scene(3 * i)[:height, :width]), i) for i in range(count)]


def carried(propagator, frames):
    """Labels of two objects in every frame behind the first."""
    memory, found = propagator.memory(), []
    height, width = frames[0].shape
    masks = torch.zeros(3, height, width)
    masks[1, 10:40, 10:50] = masks[2, 50:80, 60:110] = 1
    masks[0] = 1 - masks[1:].sum(0)
    memory.remember(propagator.encode(frames[:1])[0], [4, 9], masks, certain=True)
    for frame in frames[1:]:
        (encoded,) = propagator.encode([frame])
        found.append(memory.read(encoded))
        memory.remember(encoded, memory.ids)
    return torch.stack(found)


@pytest.mark.parametrize('name', STAGES)
def test_every_network_that_follows_objects_gets_engines(name, runtime, tmp_path):
    network = loaded(name)
    engines, _ = engines_of(network, tmp_path)
    prepared = engines.prepare(SHAPE[name])
    assert [done.stage for done in prepared] == STAGES[name] == runtime.built
    assert all(done.origin == 'built' for done in prepared), prepared
    assert network.input_shape(*SHAPE[name]) == SHAPE[name]
    again = engines_of(loaded(name), tmp_path)[0].prepare(SHAPE[name])
    assert [done.origin for done in again] == ['kept'] * len(again)


@pytest.mark.parametrize('name', STAGES)
def test_a_stage_that_is_wrong_is_refused(name, runtime, tmp_path):
    """Its outputs are those of another image, upside down."""
    network = loaded(name)

    def turned(run):
        return lambda **tensors: {k: v.flip(-2) for k, v in run(**tensors).items()}

    runtime.wrap = turned
    engines, _ = engines_of(network, tmp_path)
    prepared = engines.prepare(SHAPE[name])
    assert [done.origin for done in prepared] == ['refused'] * len(prepared), prepared
    assert engines.runs(SHAPE[name])[prepared[0].stage] is network.eager[prepared[0].stage]


@pytest.mark.parametrize('name', CARRIERS)
def test_masks_are_carried_by_engines_as_by_pytorch(name, runtime, tmp_path):
    plain, network = loaded(name), loaded(name)
    asked = []
    runtime.wrap = lambda run: lambda **tensors: asked.append(run.stage.name) or run(**tensors)
    engines, _ = engines_of(network, tmp_path)
    frames = video(name, 5)
    engines.prepare(SHAPE[name])
    asked.clear()
    expected, found = carried(plain, frames), carried(network, frames)
    assert set(asked) == set(STAGES[name]) and asked.count('image') == len(frames)
    torch.testing.assert_close(found, expected)
    assert len(plain.encode(frames[:3])) == len(network.encode(frames[:3])) == 3


@pytest.mark.parametrize('name', CARRIERS)
def test_engines_may_take_over_in_the_middle_of_a_memory(name, runtime, tmp_path):
    plain, network = loaded(name), loaded(name)
    engines, _ = engines_of(network, tmp_path)
    frames = video(name, 4)
    expected = carried(plain, frames)
    engines.prepare(SHAPE[name])
    numbers = itertools.count()
    network.runs = lambda shape: network.eager if next(numbers) < 2 else engines.runs(shape)
    torch.testing.assert_close(carried(network, frames), expected)


@pytest.mark.parametrize('name', CARRIERS)
def test_half_precision_carries_the_same_masks(name):
    frames = video(name, 4)
    expected, found = carried(loaded(name), frames), carried(loaded(name, 'fp16'), frames)
    error = (expected - found).abs()
    assert found.dtype == torch.float32 and error.mean() < 2e-3, float(error.mean())


def test_half_precision_follows_the_same_points():
    points, found = np.float32([(30, 30), (80, 50), (100.5, 20.25)]), []
    for tracker in (loaded('pips'), loaded('pips', 'fp16')):
        encoded = [tracker.encode([each])[0] for each in video('pips', FRAMES)]
        found.append(tracker.window(encoded, points, tracker.features(encoded[0], points)))
    for ours, theirs in zip(*found):
        assert ours.dtype == theirs.dtype == np.float32
        # A random network multiplies what rounding does.
        assert np.abs(ours - theirs).mean() < 1, np.abs(ours - theirs).mean()


def test_half_precision_is_compared_with_full():
    network = loaded('nano')
    cases = network.cases([frame.image for frame in video('nano', 2)])
    for name, stage in network.stages_in('fp16').items():
        measures = trust.compare(stage, Eager(stage, torch.float16), cases)
        assert all(each.good for each in measures), (name, *map(str, measures))


def test_points_are_followed_by_engines_as_by_pytorch(runtime, tmp_path):
    plain, network = loaded('pips'), loaded('pips')
    engines, _ = engines_of(network, tmp_path)
    engines.prepare(SHAPE['pips'])
    points, found = np.float32([(30, 30), (80, 50), (100.5, 20.25)]), []
    for tracker in (plain, network):
        encoded = [tracker.encode([each])[0] for each in video('pips', FRAMES)]
        found.append(tracker.window(encoded, points, tracker.features(encoded[0], points)))
    for ours, theirs in zip(*found):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert 'window' in runtime.loaded


# In a method


def method(name, folder, monkeypatch, **changes):
    """A method with engines of a runtime that pretends, and what it logged."""
    monkeypatch.setenv('MASA_ROS_ENGINES', str(folder))
    kind, lines = METHODS[name], []
    config = options.build(kind.options, {'device': 'cpu', 'runtime': 'recorded', **changes})
    return kind.load(config, lines.append), lines


def told(made, images=3):
    """Track a few images; returns what diagnostics say of the engines."""
    stream = Stream(made)
    for i in range(images):
        stream.track(Frame(scene(4 * i, size=(96, 128)), i))
    return made.describe()['engines']


@pytest.mark.parametrize(
    ('name', 'parts'),
    [('deva', ['detector', 'propagator']), ('sam_track', ['detector', 'propagator'])],
)
def test_a_method_has_all_its_networks_compiled(name, parts, runtime, tmp_path, monkeypatch):
    made, _ = method(name, tmp_path, monkeypatch, warm_start=False)
    assert runtime.built == [], 'nothing is known of the camera yet'
    told(made)
    assert {'masks', 'values'} <= set(runtime.loaded)
    assert made.prepare(96, 128)
    status, built = made.describe()['engines'], len(runtime.built)
    for part in parts:
        assert f'{part}: image recorded fp32' in status, status
    assert 'embeddings' in runtime.built
    assert made.prepare(128, 96) and len(runtime.built) == 2 * built
    made.close()
    assert made.describe()['engines'] == 'eager: closed'


def test_engines_are_prepared_at_once_for_a_camera_that_is_known(runtime, tmp_path, monkeypatch):
    made, _ = method('deva', tmp_path, monkeypatch, warm_start=False, camera_size='128x96')
    assert runtime.built[:2] == ['image', 'embeddings'] and runtime.built.count('image') == 2
    assert 'propagator: image recorded fp32' in made.describe()['engines']
    built = list(runtime.built)
    told(made)
    assert runtime.built == built


def test_a_network_whose_engine_fails_leaves_the_others_theirs(runtime, tmp_path, monkeypatch):
    made, lines = method('deva', tmp_path, monkeypatch, warm_start=False)
    told(made)

    def broken(**tensors):
        raise EngineError('TensorRT failed to run the engine')

    engines = made.engines['propagator']
    shape = made.propagator.input_shape(96, 128)
    monkeypatch.setitem(engines.runs(shape), 'masks', engines._watched('masks', broken))
    status = told(made)
    assert 'propagator: eager: TensorRT failed' in status and 'detector: image recorded' in status
    assert any('the engines are given up' in line for line in lines)
    assert not made.prepare(96, 128)


@pytest.mark.parametrize('name', ['nano'])
def test_the_command_builds_and_verifies_them_too(name, runtime, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('MASA_ROS_ENGINES', str(tmp_path))
    monkeypatch.setattr(prepare, 'choose', lambda name, device: (runtime,))
    options = ['--model', name, '--input-size', '128', '--device', 'cpu']
    assert main(['engines', 'build', *options]) == 0
    assert runtime.built == STAGES[name] and 'mask IoU, mean' in capsys.readouterr().out
    assert main(['engines', 'verify', *options]) == 0
    assert main(['engines', 'list']) == 0
    assert capsys.readouterr().out.count(f'{name}  ') == len(STAGES[name])
    assert main(['engines', 'clear', '--model', name]) == 0 and not list(tmp_path.glob('*.engine'))
