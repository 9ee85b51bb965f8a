# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Engines on disk: what one depends on, damage, other users and processes."""

import json
import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from engine_kit import SHAPE, STAGES, Recorded, detector, engines_of, registered

from masa_ros.engines import identity, runtimes
from masa_ros.engines.cache import EngineCache, Stored, key_of
from masa_ros.models import checkpoints
from masa_ros.models.masa_stages import MaskStage
from masa_ros.models.network import MasaNetwork
from masa_ros.models.zoo import model_config

runtime = pytest.fixture(name='runtime')(registered)


def origins(folder, network=None, shape=SHAPE, **options):
    """Where the engine of each stage comes from."""
    engines, _ = engines_of(network or detector(), folder, **options)
    return {done.stage: done.origin for done in engines.prepare(shape)}


def built(folder, network=None, shape=SHAPE, **options):
    """Names of the stages whose engine is not there yet."""
    found = origins(folder, network, shape, **options)
    assert set(found.values()) <= {'built', 'kept'}
    return [name for name in STAGES if found[name] == 'built']


# What an engine depends on


def keys(network=None, **options):
    """Name of the engine of each stage."""
    engines, _ = engines_of(network or detector(), 'nowhere', **options)
    return {name: key_of(engines._builder.facts(name, SHAPE)) for name in STAGES}


def differing(one, other):
    """Names of the stages whose engines are not the same."""
    return [name for name in STAGES if one[name] != other[name]]


@pytest.mark.parametrize(
    'part, changed',
    [
        ('backbone.stem.conv', ['image']),
        ('proposals.cls', ['image']),
        ('masks.detail.conv', ['image']),
        ('boxes.cls', ['boxes']),
        ('embed.embed', ['embeddings']),
        ('masks.logits', ['masks']),
    ],
)
def test_an_engine_depends_on_the_weights_of_its_stage_alone(runtime, part, changed):
    other = detector()
    assert differing(keys(), keys(other)) == []
    with torch.no_grad():
        other.network.get_submodule(part).weight[0, 0] += 1e-3
    assert differing(keys(), keys(other)) == changed


def test_engines_of_other_weights_are_built_and_the_others_are_kept(runtime, tmp_path):
    assert built(tmp_path) == STAGES
    other = detector()
    with torch.no_grad():
        other.network.embed.embed.bias += 1e-6
    assert built(tmp_path, other) == ['embeddings']
    assert built(tmp_path) == []


@pytest.mark.parametrize(
    'module, changed',
    [
        ('masa_ros.models.resnet', ['image']),
        ('masa_ros.models.fusion', ['image']),
        ('masa_ros.models.sampling', STAGES),
        ('masa_ros.models.heads', STAGES),  # where boxes are decoded, all stages' module reads it
        ('masa_ros.models.masa_stages', STAGES),
        ('masa_ros.models.stages', STAGES),
        ('masa_ros.models.precision', STAGES),
        ('masa_ros.models.packed', ['image', 'masks']),  # by what the module of the masks imports
        ('masa_ros.engines.tensorrt', STAGES),
        ('masa_ros.models.swin', []),
        ('masa_ros.models.sam', []),
        ('masa_ros.models.network', []),
        ('masa_ros.models.zoo', []),
        ('masa_ros.models.official', []),
        ('masa_ros.detectors.masa', []),
    ],
)
def test_an_engine_depends_on_the_code_of_its_stage_alone(runtime, module, changed, monkeypatch):
    before, source = keys(), identity.source
    assert source(module)

    def edited(name):
        return source(name) + b'\n# edited' * (name == module)

    monkeypatch.setattr(identity, 'source', edited)
    assert differing(before, keys()) == changed


def test_code_that_a_module_imports_late_counts_and_types_do_not():
    imports = identity._imports('masa_ros.models.network')
    assert 'masa_ros.models.sam' in imports  # in a function
    imports = identity._imports('masa_ros.models.masa_stages')
    assert 'masa_ros.models.heads' in imports
    assert 'masa_ros.models.network' not in imports  # if TYPE_CHECKING


def other_name(network, monkeypatch):
    network.name = 'masa_nano_of_mine'


def other_candidates(network, monkeypatch):
    network.stages['image'].candidates = 299


def other_temperature(network, monkeypatch):
    network.stages['embeddings'].embed.temperature *= 2


def other_limits(network, monkeypatch):
    limits = {**MaskStage.limits, 'mask IoU, least': 0.81}
    monkeypatch.setattr(MaskStage, 'limits', limits)


def other_most(network, monkeypatch):
    monkeypatch.setattr(MaskStage, 'most', 49)


def other_runtime(network, monkeypatch):
    monkeypatch.setattr(Recorded, 'version', lambda self: '2')


def other_precision(network, monkeypatch):
    network.precision = 'mixed'


@pytest.mark.parametrize(
    'change, changed',
    [
        (other_name, []),
        (other_candidates, ['image']),
        (other_temperature, ['embeddings']),
        (other_limits, ['masks']),
        (other_most, ['masks']),
        (other_runtime, STAGES),
        (other_precision, STAGES),
    ],
)
def test_an_engine_of_other_circumstances_is_not_used(runtime, change, changed, monkeypatch):
    before, network = keys(), detector()
    change(network, monkeypatch)
    assert differing(before, keys(network)) == changed


def test_an_engine_depends_on_the_input_shape_not_on_the_camera(runtime, tmp_path):
    assert built(tmp_path) == STAGES
    assert built(tmp_path, shape=(256, 192)) == STAGES
    assert detector().input_shape(480, 640) == SHAPE
    assert built(tmp_path, camera_size='640x480') == []


def test_an_engine_depends_on_what_the_calibration_images_show(runtime, tmp_path):
    own = tmp_path / 'own'
    own.mkdir()
    cv2.imwrite(str(own / 'a.png'), np.zeros((50, 60, 3), np.uint8))
    black = keys(calibration=str(own))
    assert differing(keys(), black) == STAGES
    (own / 'a.png').rename(own / 'b.png')
    assert differing(black, keys(calibration=str(own))) == []
    cv2.imwrite(str(own / 'b.png'), np.full((50, 60, 3), 9, np.uint8))
    assert differing(black, keys(calibration=str(own))) == STAGES
    assert built(tmp_path / 'engines') == built(tmp_path / 'engines', calibration=str(own))


def test_the_versions_of_foreign_packages_count_where_a_stage_is_made_of_them(monkeypatch):
    pytest.importorskip('segment_anything')
    from test_models import SMALL_SAM

    from masa_ros.models.configs import NetworkConfig
    from masa_ros.models.masa_stages import ImageStage

    stage = ImageStage(MasaNetwork(NetworkConfig(SMALL_SAM)), 100)
    assert list(identity.identity_of(stage)['packages']) == ['segment_anything']
    assert identity.identity_of(detector().stages['image'])['packages'] == {}
    before = identity.identity_of(stage)
    monkeypatch.setattr(identity.importlib.metadata, 'version', lambda name: '2.0')
    after = identity.identity_of(stage)
    assert [key for key in before if before[key] != after[key]] == ['packages']


def test_the_record_beside_an_engine_tells_everything_it_depends_on(runtime, tmp_path):
    engines_of(detector(), tmp_path)[0].prepare(SHAPE)
    records = {record['stage']: record for _, record in EngineCache(tmp_path).stored()}
    assert set(records) == set(STAGES)
    assert len({record['weights'] for record in records.values()}) == 4
    expected = {'model', 'stage', 'code', 'version', 'gpu', 'precision', 'input', 'agreement'}
    expected |= {'weights', 'structure', 'packages', 'limits', 'calibration', 'wanted', 'date'}
    assert all(expected <= set(record) for record in records.values())


# Damage, others


@pytest.mark.parametrize(
    'spoil',
    [
        lambda data: data[: len(data) // 2],
        lambda data: b'',
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: b'\x80\x04' + data,
        lambda data: data.replace(b'"stage"', b'"stXge"'),
    ],
    ids=['cut', 'empty', 'one bit', 'foreign', 'record'],
)
def test_a_damaged_engine_is_built_again(runtime, tmp_path, spoil):
    assert built(tmp_path) == STAGES
    for file in Path(tmp_path).glob('*.engine'):
        file.write_bytes(spoil(file.read_bytes()))
    engines, lines = engines_of(detector(), tmp_path)
    assert [p.origin for p in engines.prepare(SHAPE)] == ['built'] * 4
    assert sum('damaged' in line for line in lines) == 4
    assert built(tmp_path) == []


def test_an_engine_that_the_runtime_does_not_accept_is_built_again(runtime, tmp_path):
    assert built(tmp_path) == STAGES
    runtime.refused = ['image']
    engines, lines = engines_of(detector(), tmp_path)
    assert [p.origin for p in engines.prepare(SHAPE)] == ['built', 'kept', 'kept', 'kept']
    assert sum('does not accept' in line and 'built again' in line for line in lines) == 1


def test_an_engine_of_somebody_else_is_not_used(runtime, tmp_path):
    assert built(tmp_path) == STAGES
    files = sorted(tmp_path.glob('*.engine'))
    files[0].chmod(0o666)
    target = files[1].rename(tmp_path / 'elsewhere')
    files[1].symlink_to(target)
    foreign = 2
    if os.getuid() == 0:
        os.chown(files[2], 12345, 12345)
        foreign = 3
    engines, lines = engines_of(detector(), tmp_path)
    assert sum(p.origin == 'built' for p in engines.prepare(SHAPE)) == foreign
    assert sum('not used' in line for line in lines) == foreign


def build_in_a_process(folder, results):
    recorded = Recorded()
    recorded.delay = 0.5
    runtimes.RUNTIMES['recorded'] = recorded
    torch.set_num_threads(1)
    results.put(list(origins(folder).values()))


def test_two_processes_build_each_engine_once(tmp_path):
    context = multiprocessing.get_context('spawn')
    results = context.Queue()
    processes = [
        context.Process(target=build_in_a_process, args=(tmp_path, results)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    found = [results.get(timeout=500) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(found[0] + found[1]) == ['built'] * 4 + ['kept'] * 4
    assert not list(tmp_path.glob('*.part'))


def test_a_folder_that_cannot_be_written_costs_only_time(runtime):
    engines, lines = engines_of(detector(), '/proc/masa_ros/engines')
    assert [p.origin for p in engines.prepare(SHAPE)] == ['built'] * 4
    assert sum('is not kept' in line for line in lines) == 4
    assert engines.runs(SHAPE) is not engines.network.eager


def write_until_full(folder, results):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    store = EngineCache(folder)
    results.put((store.write('big', Stored({}, bytes(5000))), store.problem))


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    EngineCache(tmp_path).write('big', Stored({'old': True}, b'old'))
    context = multiprocessing.get_context('spawn')
    results = context.Queue()
    process = context.Process(target=write_until_full, args=(tmp_path, results))
    process.start()
    written, problem = results.get(timeout=500)
    process.join()
    assert written is None and 'not kept' in problem
    assert [f.name for f in tmp_path.iterdir()] == ['big.engine']
    assert EngineCache(tmp_path).read('big').data == b'old'


def write_for_ever(folder):
    model = model_config('masa_nano')
    network = MasaNetwork(model.network)
    while True:
        EngineCache(folder).write('big', Stored({}, bytes(10_000_000)))
        checkpoints.save(network, folder / 'weights.safetensors', {'model': model.name})


def test_a_kill_leaves_no_half_written_engine_or_weights(tmp_path):
    weights, model = tmp_path / 'weights.safetensors', model_config('masa_nano')
    process = multiprocessing.get_context('spawn').Process(target=write_for_ever, args=(tmp_path,))
    process.start()
    end = time.monotonic() + 60
    while not weights.exists() and time.monotonic() < end:
        time.sleep(0.01)
    for _ in range(50):  # others may look at any time
        assert len(EngineCache(tmp_path).read('big').data) == 10_000_000
        checkpoints.load(MasaNetwork(model.network), weights, model)
    process.kill()
    process.join()
    assert len(EngineCache(tmp_path).read('big').data) == 10_000_000
    checkpoints.load(MasaNetwork(model.network), weights, model)


def test_engines_are_private(runtime, tmp_path):
    folder = tmp_path / 'engines'
    assert built(folder) == STAGES
    assert oct(folder.stat().st_mode)[-3:] == '700'
    assert {oct(f.stat().st_mode)[-3:] for f in folder.iterdir()} == {'600'}
    header = next(folder.glob('*.engine')).read_bytes().split(b'\n')[2]
    assert json.loads(header)['runtime'] == 'recorded'
