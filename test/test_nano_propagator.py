# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The small propagation network as it is shipped, and how it is trained."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import scene
from safetensors.torch import load_file, save_file
from test_training import draw_photos

from masa_ros import cli
from masa_ros.errors import ConfigError, WeightsError
from masa_ros.models import nano_weights
from masa_ros.models.nano_propagation import NanoPropagation, NanoSizes
from masa_ros.models.zoo import model_config
from masa_ros.propagators import PROPAGATORS
from masa_ros.propagators.nano import NanoPropagator, NanoPropagatorConfig, without_small_pieces
from masa_ros.training.cutouts import image_files, mine
from masa_ros.training.propagation import PropagationConfig, measured, train
from masa_ros.training.propagation_losses import propagation_loss
from masa_ros.training.sequences import Sequences, Shown
from masa_ros.types import Frame


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    """Two would wait for each other most of the time where others use the cores too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def sequences(tmp_path_factory):
    files = image_files(draw_photos(tmp_path_factory.mktemp('photos')))
    library = mine(files, tmp_path_factory.mktemp('library'))
    return Sequences(library, files, (128, 128), seed=3)


@pytest.fixture(scope='module')
def shipped():
    return PROPAGATORS['nano'].load(NanoPropagatorConfig(), 'cpu')


def stack(*masks):
    """Return masks (H, W) bool as a memory takes them."""
    drawn = torch.from_numpy(np.stack(masks)).float()
    return torch.cat((1 - drawn.sum(0, keepdim=True), drawn))


def test_it_is_the_default():
    assert next(iter(PROPAGATORS)) == 'nano'
    assert PROPAGATORS['nano'].options is NanoPropagatorConfig


def test_what_is_shipped_is_small_and_made_on_the_shipped_backbone(shipped):
    assert nano_weights.shipped().stat().st_size < 6 << 20
    assert shipped.facts()['model'] == 'nano'
    assert shipped.weights.startswith('nano_propagator.safetensors sha256:')
    backbone = load_file(model_config('masa_nano').shipped_weights)
    own = shipped.network.backbone.stem.conv.weight
    torch.testing.assert_close(own, backbone['backbone.stem.conv.weight'].float())


def test_small_pieces_of_a_mask_become_background():
    first, second = np.zeros((2, 60, 80), bool)
    first[5:25, 5:25] = first[40:45, 60:70] = True  # 400 and 50 pixels
    second[30:50, 10:30] = second[2:5, 50:60] = second[55, 75] = True  # 400, 30, 1
    masks = stack(first, second)
    assert torch.equal(without_small_pieces(masks.clone(), 0), masks)
    second[2:5, 50:60] = second[55, 75] = False
    assert torch.equal(without_small_pieces(masks, 0.1), stack(first, second))


@pytest.mark.parametrize('size', [(96, 160), (75, 121)])
def test_shipped_weights_follow_two_things_that_move(shipped, size):
    """A dark and a bright square change places on noise."""
    height, width = size
    rng = np.random.default_rng(0)
    ground = rng.integers(90, 150, (height, width, 3)).astype(np.uint8)

    def drawn(t):
        image, masks = ground.copy(), np.zeros((2, height, width), bool)
        for i, (y, x) in enumerate(((8, 10 + 8 * t), (44, 90 - 8 * t))):
            masks[i, y : y + 24, x : x + 24] = True
        image[masks[0]] = (200, 40, 30)
        image[masks[1]] = (20, 60, 210)
        return Frame(image, t), masks

    memory = shipped.memory()
    for t in range(9):
        frame, masks = drawn(t)
        (encoded,) = shipped.encode([frame])
        if t == 0:
            memory.remember(encoded, [4, 9], stack(*masks), certain=True)
            continue
        found = memory.read(encoded)
        assert found.shape == (3, height, width)
        torch.testing.assert_close(found.sum(0), torch.ones(height, width))
        labels = found.argmax(0).numpy()
        for i, mask in enumerate(masks, 1):
            overlap = ((labels == i) & mask).sum() / ((labels == i) | mask).sum()
            assert overlap > 0.6, (t, i)
        memory.remember(encoded, memory.ids)


def remembered(propagator, memory, t):
    """Show a memory the scene; in the first frame something in it."""
    (encoded,) = propagator.encode([Frame(np.ascontiguousarray(scene(t)), t)])
    memory.read(encoded)
    if t == 0:
        mask = np.zeros((240, 320), bool)
        mask[50:150, 100:200] = True
        memory.remember(encoded, [1], stack(mask))
    else:
        memory.remember(encoded, memory.ids)


def test_memory_follows_its_options_while_it_is_used(shipped):
    config = NanoPropagatorConfig(size=64, mem_every=1)
    propagator = NanoPropagator(shipped.network, config, 'cpu')
    memory = propagator.memory()
    for t in range(5):
        remembered(propagator, memory, t)
    assert memory.figures()['memory_frames'] == 5
    propagator.configure(dataclasses.replace(config, max_mid=3, min_mid=2, size=128))
    assert propagator.config.size == 64, 'the memory is of one size'
    remembered(propagator, memory, 5)
    assert memory.figures()['memory_frames'] == 2
    assert memory.figures()['memory_prototypes'] > 0


def test_memory_is_bounded(shipped):
    config = NanoPropagatorConfig(size=64, mem_every=1, prototypes=4, max_long=12)
    propagator = NanoPropagator(shipped.network, config, 'cpu')
    memory, sizes = propagator.memory(), []
    for t in range(40):
        remembered(propagator, memory, t)
        sizes.append(memory.figures()['memory_bytes'])
    assert max(sizes[20:]) == max(sizes)
    assert memory.figures()['memory_frames'] < config.max_mid
    assert 0 < memory.figures()['memory_prototypes'] <= config.max_long


def changed(path, tensors=None, metadata=None):
    """Write the shipped file with something changed."""
    save_file(tensors or load_file(nano_weights.shipped()), path, metadata=metadata)
    return str(path)


def test_a_wrong_weights_file_is_named(tmp_path):
    good = load_file(nano_weights.shipped())
    less = {name: value for name, value in good.items() if not name.startswith('mask_decoder.')}
    foreign = {**good, 'image_encoder.side4.weight': torch.zeros(3, 2, 1, 1)}
    for file, text in (
        (str(tmp_path / 'none.safetensors'), 'there is no file'),
        (changed(tmp_path / 'less.safetensors', less), 'does not fit the nano propagator'),
        (changed(tmp_path / 'shape.safetensors', foreign), r'has shape \(3, 2, 1, 1\)'),
        (changed(tmp_path / 'other.safetensors', None, {'backbone': 'abc'}), 'check sum abc'),
    ):
        with pytest.raises(WeightsError, match=text):
            PROPAGATORS['nano'].load(NanoPropagatorConfig(weights=file), 'cpu')
    torch.save({}, tmp_path / 'x.safetensors')
    with pytest.raises(WeightsError, match='not a readable'):
        PROPAGATORS['nano'].load(
            NanoPropagatorConfig(weights=str(tmp_path / 'x.safetensors')), 'cpu'
        )


# Training


def test_recordings_are_the_same_for_the_same_number(sequences):
    for number in range(12):
        shown, again = (sequences.shown(number, 3, 2) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(shown[:3], again[:3]))
        assert shown.kept == again.kept and shown.kept[0]
        count = len(shown.first)
        assert shown.images.shape == (3, 3, 128, 128)
        assert shown.masks.shape == (3, count, 128, 128) and 1 <= count <= 2
        assert shown.masks[0].flatten(1).any(1).all() and shown.first.flatten(1).any(1).all()
        assert shown.masks.sum(1).max() == 1  # of two objects that overlap one is seen


def rows(path):
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


class Few(Sequences):
    """The first few recordings again and again."""

    def __init__(self, sequences, few):
        self.sequences, self.few = sequences, few

    def shown(self, index, frames, objects):
        return self.sequences.shown(index % self.few, frames, objects)


def test_losses_fall(sequences, tmp_path):
    config = PropagationConfig(
        tmp_path, steps=30, warmup=5, recordings=2, frames=3, workers=0, evaluate_every=15
    )
    weights = train(config, Few(sequences, 2), Few(sequences, 2))
    figures = rows(tmp_path / 'metrics.csv')
    for loss in ('pixels', 'dice'):
        first, last = (np.mean([float(r[loss]) for r in p]) for p in (figures[:5], figures[-5:]))
        assert last < first
    assert [row['step'] for row in rows(tmp_path / 'evaluation.csv')] == ['15', '30']
    assert json.loads((tmp_path / 'config.json').read_text())['steps'] == 30
    network = NanoPropagation(NanoSizes())
    nano_weights.load(network, weights)
    names = load_file(weights)
    assert not any(name.startswith('backbone.') for name in names)


def test_a_resumed_run_is_the_run_that_was_not_interrupted(sequences, tmp_path):
    options = {'warmup': 2, 'recordings': 1, 'frames': 2, 'workers': 0, 'save_every': 2}
    whole = PropagationConfig(tmp_path / 'whole', steps=4, **options)
    train(whole, sequences)
    parts = dataclasses.replace(whole, output=tmp_path / 'parts')

    class Ends(Few):
        def shown(self, index, frames, objects):
            assert index < 3
            return self.sequences.shown(index, frames, objects)

    with pytest.raises(AssertionError):
        train(parts, Ends(sequences, 0))
    train(dataclasses.replace(parts, resume=True), sequences)
    ours, theirs = (load_file(tmp_path / n / 'checkpoint.safetensors') for n in ('whole', 'parts'))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    assert [row['step'] for row in rows(tmp_path / 'parts/metrics.csv')] == ['1', '2', '3', '4']
    (tmp_path / 'parts/checkpoint.safetensors').write_bytes(b'not one')
    with pytest.raises(WeightsError, match='no checkpoint of this run'):
        train(dataclasses.replace(parts, resume=True), sequences)


def test_every_part_learns(sequences):
    network = NanoPropagation(NanoSizes())
    shown = sequences.shown(0, 4, 2)._replace(kept=(True, True, True, False))
    maps = network(shown.images.float() / 128 - 1)
    losses = propagation_loss(network, maps, shown)
    sum(losses.values()).backward()
    assert losses.keys() == {'pixels', 'dice'}
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


def test_what_is_carried_perfectly_overlaps_wholly(sequences):
    network = NanoPropagation(NanoSizes())
    shown = sequences.shown(1, 2, 1)
    gone = Shown(shown.images, torch.zeros_like(shown.masks), shown.first, shown.kept)
    assert measured(network, [gone]) == {'iou': 0}  # of nothing
    assert 0 <= measured(network, [shown])['iou'] <= 1


def test_the_command_trains_on_a_folder(tmp_path):
    (photos := tmp_path / 'photos').mkdir()
    draw_photos(photos)
    out = tmp_path / 'out'
    options = ['--images', str(photos), '--output', str(out), '--steps', '2', '--size', '64']
    options += ['--recordings', '1', '--frames', '2', '--workers', '0']
    assert cli.main(['train-propagator', *options]) == 0
    NanoPropagator.load(
        NanoPropagatorConfig(weights=str(out / 'nano_propagator.safetensors')), 'cpu'
    )
    for wrong in (['--size', '100'], ['--frames', '1']):
        assert cli.main(['train-propagator', *options, *wrong]) == 2


def test_options_that_do_not_fit_are_named():
    for values in ({'size': 3}, {'min_mid': 6}, {'prototypes': 1000}):
        with pytest.raises(ConfigError, match=next(iter(values))):
            NanoPropagatorConfig(**values)
