# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Runs of the training: what they write, how they go on, in one process and in two."""

import csv
import dataclasses
import json
import subprocess
import sys
from types import MappingProxyType

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_training import draw_photos

from masa_ros import cli
from masa_ros.errors import ConfigError, WeightsError
from masa_ros.models import checkpoints
from masa_ros.models.network import MasaNetwork
from masa_ros.models.preprocess import normalise
from masa_ros.models.zoo import model_config
from masa_ros.training.composites import Composites
from masa_ros.training.cutouts import image_files, mine
from masa_ros.training.losses import MOST_IDS, objective, sample_rois
from masa_ros.training.replay import Memory, contrast
from masa_ros.training.targets import LossConfig
from masa_ros.training.train import Drawn, TrainConfig, to_batch, train


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    """Two would wait for each other most of the time where others use the cores too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    return draw_photos(tmp_path_factory.mktemp('photos'))


@pytest.fixture(scope='module')
def composites(photos, tmp_path_factory):
    files = image_files(photos)
    library = mine(files, tmp_path_factory.mktemp('library'))
    return Composites(library, files, (128, 160), seed=3)


IMAGE_PART = ('backbone', 'pyramid', 'proposals', 'masks')


class Scenes:
    """Scenes of which only the first few are shown, again and again, up to a number.

    They count as photographs, so that one-stage proposals learn from them.
    """

    left_out = MappingProxyType({})

    def __init__(self, scenes, few=1 << 30, end=1 << 30):
        self.scenes, self.few, self.end = scenes, few, end

    def pair(self, index):
        if index >= self.end:
            raise StopError
        return self.scenes.pair(index % self.few)._replace(generated=False)


class StopError(Exception):
    pass


def read_rows(file):
    with file.open(newline='') as opened:
        return list(csv.DictReader(opened))


def test_every_loss_falls(composites, tmp_path):
    fallen, asked = set(), set()
    # Where proposals get better more boxes are learned from, so that the losses of boxes rise:
    # those are watched while the proposals stay. Those of one-stage proposals weigh by how good
    # the boxes are: they are watched where the boxes are good from the start.
    image_part = ('backbone', 'pyramid', 'fusion', 'proposals')
    shipped = str(model_config('masa_nano').shipped_weights)
    for model, name, start, freeze, names in (
        ('masa_nano', 'nano', '', (), ('total', 'contrast', 'mask')),
        ('masa_nano', 'known', shipped, None, ('total', 'object', 'box', 'distance')),
        ('masa_nano2', 'all', '', (), ('total', 'rpn_score', 'rpn_box', 'contrast', 'mask')),
        ('masa_nano2', 'heads', '', image_part, ('total', 'box_score', 'box', 'contrast', 'mask')),
    ):
        options = {'steps': 25, 'pairs': 2, 'warmup': 5, 'workers': 0, 'precision': 'fp32'}
        config = TrainConfig(model, tmp_path / name, start, freeze=freeze, **options)
        weights = train(config, Scenes(composites, few=2))
        rows = read_rows(tmp_path / name / 'metrics.csv')
        assert [row['step'] for row in rows] == [str(i) for i in range(1, 26)]
        for loss in names:
            first, last = (np.mean([float(r[loss]) for r in p]) for p in (rows[:5], rows[-5:]))
            assert last < first, (name, loss)
            fallen.add(loss)
        # All masks are known here: boxes teach none.
        assert {row['outline'] for row in rows} == {'0'}
        asked |= rows[0].keys()
    assert fallen == asked - {'step', 'seconds', 'outline'}
    network = MasaNetwork(model_config('masa_nano2').network)
    assert checkpoints.load(network, weights, model_config('masa_nano2'))['steps'] == '25'


def test_a_resumed_run_is_the_run_that_was_not_interrupted(composites, tmp_path):
    options = {'pairs': 1, 'warmup': 2, 'workers': 0, 'precision': 'fp32', 'steps': 6}
    config = TrainConfig('masa_nano', tmp_path / 'whole', evaluate_every=3, **options)

    def evaluate(network):
        return {'norm': float(sum(p.detach().norm() for p in network.parameters()))}

    train(config, Scenes(composites), evaluate)
    # The third step is done when the run is interrupted, but not saved: it is done once more.
    parts = dataclasses.replace(config, output=tmp_path / 'parts', save_every=2)
    with pytest.raises(StopError):
        train(parts, Scenes(composites, end=3), evaluate)
    with (tmp_path / 'parts/metrics.csv').open('a') as file:
        file.write('3,1.5')  # the process was killed in the middle of a row
    train(dataclasses.replace(parts, resume=True), Scenes(composites), evaluate)
    whole, resumed = (
        load_file(tmp_path / name / 'checkpoint.safetensors') for name in ('whole', 'parts')
    )
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    for kind in ('metrics', 'evaluation'):
        expected, rows = (read_rows(tmp_path / n / f'{kind}.csv') for n in ('whole', 'parts'))
        assert [{**r, 'seconds': ''} for r in rows] == [{**r, 'seconds': ''} for r in expected]
    assert [row['step'] for row in rows] == ['3', '6']
    rows = read_rows(tmp_path / 'parts/metrics.csv')
    for kind, column, figures in (('metrics', 'total', rows), ('evaluation', 'norm', expected)):
        events = EventAccumulator(str(tmp_path / 'parts/events'))
        events.Reload()
        drawn = events.Scalars(f'{kind}/{column}')
        assert [event.step for event in drawn] == [int(row['step']) for row in figures]
        values = [float(row[column]) for row in figures]
        np.testing.assert_allclose([event.value for event in drawn], values, rtol=1e-3)
    # Begun again in the same folder, it begins with the first row.
    train(dataclasses.replace(parts, steps=1), composites, evaluate)
    assert [row['step'] for row in read_rows(tmp_path / 'parts/metrics.csv')] == ['1']
    assert not (tmp_path / 'parts/evaluation.csv').exists()


ONE_OF_TWO = """
import os, pathlib, sys
from masa_ros import cli
from masa_ros.training import cutouts

find = cutouts.from_photo

def noted(path):
    pathlib.Path(sys.argv[1], 'mined-by-' + os.environ.get('RANK', '0')).touch()
    return find(path)

cutouts.from_photo = noted
sys.exit(cli.main(sys.argv[2:]))
"""


def trained_by(processes, folder, photos, *more):
    """Run the command in some processes; returns what it printed and the exit code."""
    folder.mkdir()
    (folder / 'run.py').write_text(ONE_OF_TWO)
    start = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(processes)]
    command = [sys.executable, *(start if processes > 1 else ()), folder / 'run.py', folder]
    options = [
        *('train', '--images', photos, '--steps', 4, '--pairs', 2, '--size', 96),
        *('--workers', 0, '--precision', 'fp32', '--device', 'cpu', '--threads', 1),
        *('--learning-rate', '1e-3', '--output', folder / 'run'),
    ]
    arguments = [str(a) for a in (*command, *options, *more)]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd='/', timeout=280)
    return done.stdout + done.stderr, done.returncode


def test_two_processes_take_the_steps_of_one(photos, tmp_path):
    for processes, name in ((1, 'one'), (2, 'two')):
        printed, code = trained_by(processes, tmp_path / name, photos)
        assert code == 0, printed[-2000:]
        # Process 0 alone searches the photographs and tells of the result.
        assert [file.name for file in (tmp_path / name).glob('mined-by-*')] == ['mined-by-0']
        assert printed.count('weights: ') == 1
    torch.manual_seed(0)
    start = MasaNetwork(model_config('masa_nano').network).state_dict()
    one, two = (
        load_file(tmp_path / name / 'run/checkpoint.safetensors') for name in ('one', 'two')
    )
    moved = apart = 0.0
    for name, value in start.items():
        if value.is_floating_point():
            first, second = one[f'network.{name}'], two[f'network.{name}']
            moved += float((first - value).square().sum())
            apart += float((first - second).square().sum())
    assert moved > 1e-3
    assert apart < 1e-3 * moved
    rows = [read_rows(tmp_path / name / 'run/metrics.csv') for name in ('one', 'two')]
    assert [len(side) for side in rows] == [4, 4]
    for ours, theirs in zip(*rows):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {'seconds'}:
            assert float(ours[key]) == pytest.approx(float(theirs[key]), rel=2e-2, abs=1e-3), key


def test_what_ends_one_process_ends_both(tmp_path):
    (tmp_path / 'plain').mkdir()
    cv2.imwrite(str(tmp_path / 'plain/0.png'), np.full((100, 100, 3), 128, np.uint8))
    printed, code = trained_by(2, tmp_path / 'two', tmp_path / 'plain')
    assert code != 0
    # Counted, not read by lines: two processes may write into one.
    assert printed.count('masa_ros train: none of 1 photographs shows one whole object') == 2


@pytest.mark.parametrize(
    'model, freeze, frozen',
    [
        ('masa_nano', None, ('backbone', 'proposals.known')),
        ('masa_nano', ('backbone.stem',), ('backbone.stem',)),
        ('masa_nano', ('embed',), ('embed',)),
        ('masa_nano2', ('backbone', 'boxes'), ('backbone', 'boxes')),
        ('masa_nano2', None, ()),
    ],
)
def test_frozen_parts_keep_their_weights(composites, tmp_path, model, freeze, frozen):
    options = {'pairs': 1, 'warmup': 1, 'workers': 0, 'steps': 2, 'freeze': freeze}
    train(TrainConfig(model, tmp_path, **options), Scenes(composites))
    torch.manual_seed(0)
    start = MasaNetwork(model_config(model).network).state_dict()
    trained = load_file(tmp_path / 'checkpoint.safetensors')
    held = {name for name in start if name.startswith(tuple(f'{part}.' for part in frozen))}
    moved = {n for n, value in start.items() if not torch.equal(trained[f'network.{n}'], value)}
    assert not held & moved
    free, changed = (
        {n.partition('.')[0] for n in names} for names in (start.keys() - held, moved)
    )
    assert changed == free and len(free) >= 4


def test_embeddings_learn_from_scenes_that_came_before(composites, tmp_path):
    options = {'pairs': 2, 'warmup': 5, 'workers': 0, 'precision': 'fp32', 'steps': 8}
    config = TrainConfig('masa_nano', tmp_path, freeze=IMAGE_PART, replay=4, **options)
    train(config, Scenes(composites, few=4))
    torch.manual_seed(0)
    network, memory = MasaNetwork(model_config('masa_nano').network), Memory(4, seed=0)
    start = {name: value.clone() for name, value in network.state_dict().items()}
    trained = {
        name.removeprefix('network.'): value
        for name, value in load_file(tmp_path / 'checkpoint.safetensors').items()
        if name.startswith('network.')
    }
    moved = {name for name, value in start.items() if not torch.equal(trained[name], value)}
    assert {name.partition('.')[0] for name in moved} == {'appearance', 'embed'}
    network.requires_grad_(False).eval()
    images, targets = to_batch([Drawn(i, composites.pair(i)) for i in range(4)])
    memory.add(network, normalise(images), targets, LossConfig())
    losses = []
    for state in (start, trained):
        network.load_state_dict(state)
        losses.append(float(contrast(network, memory.draw(4), LossConfig())['contrast']))
    assert losses[1] < 0.7 * losses[0]


def test_parts_begin_anew_whatever_the_file_says(composites, tmp_path):
    """So a file from before the embeddings had maps of their own is a start too."""
    earlier, file = model_config('masa_nano3'), tmp_path / 'earlier.safetensors'
    torch.manual_seed(1)
    before = MasaNetwork(earlier.network)
    checkpoints.save(before, file, {'model': 'masa_nano'})
    options = {'pairs': 1, 'workers': 0, 'precision': 'fp32', 'steps': 1, 'freeze': IMAGE_PART}
    config = TrainConfig('masa_nano', tmp_path / 'out', weights=str(file), **options)
    with pytest.raises(WeightsError, match='does not fit'):
        train(config, Scenes(composites, few=1))
    for parts, error in ((('appearance', 'embed'), None), (('looks',), "no part 'looks'")):
        begun = dataclasses.replace(config, anew=parts)
        if error:
            with pytest.raises(ConfigError, match=error):
                train(begun, Scenes(composites, few=1))
        else:
            train(begun, Scenes(composites, few=1))
    trained = load_file(tmp_path / 'out/checkpoint.safetensors')
    for name, value in before.state_dict().items():
        if name.startswith('embed.') and value.ndim > 1:
            assert not torch.equal(trained[f'network.{name}'], value), name
        elif name.startswith('backbone.'):
            torch.testing.assert_close(trained[f'network.{name}'], value, atol=2e-3, rtol=1e-3)


def test_a_memory_keeps_the_newest_scenes_and_draws_them_as_they_were(composites):
    torch.manual_seed(0)
    network, config = MasaNetwork(model_config('masa_nano').network).eval(), LossConfig()
    memory = Memory(3, seed=0)
    batches = []
    for first in (0, 2):
        drawn = [Drawn(i, composites.pair(i)) for i in (first, first + 1)]
        images, targets = to_batch(drawn)
        batches.append((normalise(images), targets))
        memory.add(network, *batches[-1], config)
    looks = memory.draw(10)
    assert sorted(set(looks.scene.tolist())) == [0, 1, 2]  # the first scene of four is gone
    (images, targets) = batches[1]
    mixed = network.appearance.mix(looks.pooled)
    with torch.no_grad():
        maps = network(images).appearance
        rois = sample_rois([t.boxes[:0] for t in targets], targets, config)
        direct = network.appearance_pool(maps, rois.boxes, rois.image)
    # Every box of the second batch is among them, with the features that the network pools.
    for one in direct:
        assert (mixed - one).abs().flatten(1).max(1).values.min() < 1e-4
    for scene, identity in zip(looks.scene.tolist(), looks.identity.tolist()):
        assert identity // MOST_IDS == scene


def test_a_tutor_is_imitated(composites, tmp_path):
    shipped = str(model_config('masa_nano').shipped_weights)
    options = {'pairs': 2, 'warmup': 5, 'workers': 0, 'precision': 'fp32', 'steps': 25}
    config = TrainConfig('masa_nano2', tmp_path, tutor=('masa_nano', shipped), **options)
    train(config, Scenes(composites, few=2))
    losses = [float(row['imitate']) for row in read_rows(tmp_path / 'metrics.csv')]
    assert losses[0] == pytest.approx(1, abs=0.3)  # they begin at a right angle
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert json.loads((tmp_path / 'config.json').read_text())['tutor'] == [
        'masa_nano',
        'masa_nano.safetensors',
    ]


def test_a_network_is_its_own_perfect_tutor(composites):
    model = model_config('masa_nano')
    network = MasaNetwork(model.network).eval()
    checkpoints.load(network, model.shipped_weights, model)
    images, targets = to_batch([Drawn(0, composites.pair(0))])
    with torch.no_grad():
        losses = objective(network, normalise(images), targets, LossConfig(), tutor=network)
    assert float(losses['imitate']) == pytest.approx(0, abs=1e-5)


def test_what_learned_elsewhere_is_kept(composites, tmp_path):
    shipped = str(model_config('masa_nano').shipped_weights)
    options = {'pairs': 1, 'warmup': 1, 'workers': 0, 'steps': 2, 'precision': 'fp32'}
    config = TrainConfig(
        'masa_nano', tmp_path, shipped, freeze=(), gentle=('backbone',), **options
    )
    train(config, Scenes(composites))
    kept = [float(row['keep']) for row in read_rows(tmp_path / 'metrics.csv')]
    assert kept[0] == pytest.approx(0, abs=1e-6) and kept[1] > 1e-6


@pytest.mark.parametrize(
    'gentle', [('backbone', 'proposals.known'), (), ('embed', 'pyramid.lateral.0')]
)
def test_gentle_parts_learn_at_a_tenth_of_the_rate(composites, tmp_path, gentle):
    options = {'pairs': 1, 'warmup': 1, 'workers': 0, 'steps': 1, 'weight_decay': 0.0}
    train(
        TrainConfig('masa_nano', tmp_path, gentle=gentle, freeze=(), **options), Scenes(composites)
    )
    torch.manual_seed(0)
    start = MasaNetwork(model_config('masa_nano').network)
    trained = load_file(tmp_path / 'checkpoint.safetensors')
    slow = tuple(f'{part}.' for part in gentle)
    moved: dict[bool, float] = {True: 0.0, False: 0.0}
    for name, value in start.named_parameters():
        by = (trained[f'network.{name}'] - value.detach()).abs().max()
        moved[name.startswith(slow)] = max(moved[name.startswith(slow)], float(by))
    # The first step of Adam is as long as the rate, whatever the gradient.
    assert moved[False] == pytest.approx(2e-3, rel=0.01)
    assert moved[True] == pytest.approx(2e-4 if gentle else 0.0, rel=0.01)


@pytest.mark.parametrize(
    'options, message',
    [
        ({'precision': 'int8'}, 'precision'),
        ({'freeze': ('wheels',)}, "no part 'wheels'"),
        ({'gentle': ('wheels',)}, "gentle: masa_nano has no part 'wheels'"),
        ({'tutor': ('masa_r50', 'x')}, 'tutor: masa_r50 has embeddings of 256 numbers, not of'),
        ({'tutor': ('masa_nano', '/nowhere.safetensors')}, 'nowhere'),
        ({'replay': 2}, 'replay: for embeddings with maps of their own'),
        ({'replay': 2, 'model': 'masa_nano2', 'freeze': IMAGE_PART}, 'replay: for embeddings'),
        ({'model': 'masa_nono'}, 'masa_nono'),
        ({'weights': '/nowhere.safetensors'}, 'nowhere'),
    ],
)
def test_options_that_do_not_fit_are_named(composites, tmp_path, options, message):
    config = dataclasses.replace(TrainConfig('masa_nano', tmp_path), **options)
    with pytest.raises((ConfigError, WeightsError), match=message):
        train(config, composites)


@pytest.mark.parametrize('metadata', [None, {'step': '3'}, {}])
def test_a_checkpoint_of_something_else_is_refused(composites, tmp_path, metadata):
    file = tmp_path / 'checkpoint.safetensors'
    file.write_bytes(b'no checkpoint')
    if metadata is not None:
        save_file({'network.a': torch.zeros(1)}, file, metadata)
    config = TrainConfig('masa_nano', tmp_path, resume=True, workers=0)
    with pytest.raises(WeightsError, match='no checkpoint of this run'):
        train(config, composites)


def test_the_command_trains_on_a_folder(photos, tmp_path, monkeypatch):
    monkeypatch.setattr('masa_ros.training.command._SCENES', 4)
    monkeypatch.setattr('masa_ros.training.command._CLIPS', 2)
    arguments = ['train', '--images', str(photos), '--output', str(tmp_path)]
    options = ['--steps', '2', '--pairs', '1', '--size', '128', '--workers', '0']
    assert cli.main([*arguments, *options, '--evaluate-every', '2']) == 0
    (row,) = csv.DictReader((tmp_path / 'evaluation.csv').open())
    assert set(row) == {'step', 'ar', 'r50', 'mask_ar', 'retrieval', 'hota', 'idf1'}
    assert all(0 <= float(row[key]) <= 1 for key in row if key != 'step')
    assert (tmp_path / 'masa_nano.safetensors').is_file()
    assert cli.main(['train', '--images', str(tmp_path / 'x'), '--output', str(tmp_path)]) == 2
