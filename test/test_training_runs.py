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
from masa_ros.detectors.masa import MasaDetector
from masa_ros.errors import ConfigError, SourceError, WeightsError
from masa_ros.models import checkpoints
from masa_ros.models.network import MasaNetwork
from masa_ros.models.preprocess import normalise
from masa_ros.models.zoo import model_config
from masa_ros.training.composites import Composites
from masa_ros.training.cutouts import image_files, mine
from masa_ros.training.discriminants import Scatter, in_both_views
from masa_ros.training.losses import objective, sample_rois, seen_objects
from masa_ros.training.measure import hundred_best, retrieval
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
    done = subprocess.run(arguments, capture_output=True, text=True, cwd='/', timeout=900)
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


def test_directions_are_those_in_which_objects_differ_more_than_views():
    torch.manual_seed(0)
    objects = torch.randn(4000, 2) @ torch.tensor([[1.0, 0.5], [0.0, 1.0]])
    turned = torch.linalg.qr(torch.randn(5, 5))[0]

    def features(units):
        torch.manual_seed(1)
        views = (torch.cat((objects, 9 * torch.randn(4000, 3)), 1) @ turned for _ in range(2))
        return [(view + 7) * units for view in views]

    outputs = []
    for units in (torch.ones(5), torch.tensor([1.0, 1e3, 1e-3, 5.0, 0.2])):
        scatter, (first, second) = Scatter(5), features(units)
        for part in range(0, 4000, 1000):
            scatter.add(first[part : part + 1000], second[part : part + 1000])
        weights, offsets = scatter.directions(2, shrink=1e-6)
        outputs.append([view @ weights.T + offsets for view in (first, second)])
        both = torch.cat(outputs[-1])
        assert both.mean(0).abs().max() < 1e-2
        assert both.var(0).mean() == pytest.approx(1, rel=0.02)
        assert (outputs[-1][0] - outputs[-1][1]).std() < 0.05  # what changes between views is gone
    for one, other in zip(*outputs):
        same = torch.nn.functional.cosine_similarity(one, other, dim=0).abs()
        assert same.min() > 0.99, 'whatever the units'


def test_embeddings_in_closed_form_find_objects_again(composites, tmp_path):
    model = model_config('masa_nano')
    options = {'pairs': 4, 'workers': 0, 'precision': 'fp32', 'closed_form': True, 'freeze': ()}
    start = str(model.shipped_weights)
    config = TrainConfig('masa_nano', tmp_path, start, steps=40, evaluate_every=1, **options)
    pairs = [composites.pair(i) for i in range(900, 908)]

    def again(network):
        detector = MasaDetector(model, network, hundred_best(model='masa_nano'), 'cpu')
        return {'retrieval': retrieval(detector, pairs)}

    weights = train(config, composites, again)
    shipped, fitted = load_file(start), load_file(weights)
    changed = {n for n, value in shipped.items() if not torch.equal(fitted[n], value)}
    assert {name.partition('.')[0] for name in changed} == {'appearance', 'embed'}
    rows = read_rows(tmp_path / 'metrics.csv')
    assert len(rows) == 40 and all(int(row['objects']) > 0 for row in rows)
    (row,) = read_rows(tmp_path / 'evaluation.csv')
    torch.manual_seed(0)
    unfitted = MasaNetwork(model.network).eval()
    checkpoints.load(unfitted, model.shipped_weights, model, ('appearance', 'embed'))
    assert float(row['retrieval']) > again(unfitted)['retrieval'] + 0.1
    with pytest.raises(SourceError, match='of 100 that embeddings in closed form need'):
        train(dataclasses.replace(config, steps=1), composites)


def test_features_are_mixed_after_pooling_as_before(composites):
    torch.manual_seed(0)
    network = MasaNetwork(model_config('masa_nano').network).eval()
    images, targets = to_batch([Drawn(i, composites.pair(i)) for i in range(2)])
    images = normalise(images)
    looks = seen_objects(network, images, targets, LossConfig())
    with torch.no_grad():
        mixed, maps = network.appearance.mix(looks.pooled), network(images).appearance
        rois = sample_rois([t.boxes[:0] for t in targets], targets, LossConfig())
        rois = rois.some(rois.positive)
        torch.testing.assert_close(
            mixed, network.appearance_pool(maps, rois.boxes, rois.image), atol=1e-4, rtol=1e-4
        )
    first, second = in_both_views(looks)
    both = set(looks.identity[looks.view == 0].tolist())
    both &= set(looks.identity[looks.view == 1].tolist())
    assert len(first) == len(second) == len(both) > 0
    one = looks.identity == min(both)
    torch.testing.assert_close(second[0], looks.pooled[one & (looks.view == 1)].mean(0))


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
        if name.startswith('backbone.'):
            torch.testing.assert_close(trained[f'network.{name}'], value, atol=2e-3, rtol=1e-3)


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
        (
            {'closed_form': True, 'model': 'masa_nano2', 'weights': 'any'},
            'closed_form: for models with linear',
        ),
        ({'closed_form': True, 'weights': 'any', 'resume': True}, 'not to be resumed'),
        ({'closed_form': True}, 'closed_form: from weights'),
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
