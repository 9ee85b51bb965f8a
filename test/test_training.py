import csv
import dataclasses
import itertools
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from masa_ros import cli
from masa_ros.errors import ConfigError, SourceError, WeightsError
from masa_ros.models import checkpoints
from masa_ros.models.detector import Detector, DetectorConfig
from masa_ros.models.network import MasaNetwork
from masa_ros.models.zoo import model_config
from masa_ros.training.composites import Composites
from masa_ros.training.cutouts import image_files, mine, read_library, salient_object
from masa_ros.training.losses import (
    LossConfig,
    Target,
    contrast_loss,
    match,
    objective,
    released_contrast_loss,
    released_margin_loss,
    unknown_share,
)
from masa_ros.training.measure import clip, nearest_is_own, tracking
from masa_ros.training.train import TrainConfig, to_batch, train


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Photographs of one plain body each before a soft ground with some grain."""
    folder = tmp_path_factory.mktemp('photos')
    rng = np.random.default_rng(0)
    for i in range(24):
        image = np.full((200, 240, 3), rng.integers(150, 220, 3), np.uint8)
        centre, axes = (120, 100), (int(rng.integers(35, 60)), int(rng.integers(30, 50)))
        colour = tuple(int(c) for c in rng.integers(0, 110, 3))
        cv2.ellipse(image, centre, axes, int(rng.integers(0, 180)), 0, 360, colour, -1)
        noise = rng.normal(0, 4, image.shape)
        cv2.imwrite(str(folder / f'{i:02d}.png'), np.clip(image + noise, 0, 255).astype(np.uint8))
    return folder


@pytest.fixture(scope='module')
def composites(photos, tmp_path_factory):
    files = image_files(photos)
    library = mine(files, tmp_path_factory.mktemp('library'))
    return Composites(library, files, (128, 160), seed=3)


def test_the_object_of_a_photograph_is_found_whole():
    image = np.full((160, 200, 3), (200, 190, 180), np.uint8)
    truth = np.zeros((160, 200), np.uint8)
    cv2.ellipse(truth, (100, 80), (50, 35), 20, 0, 360, 1, -1)
    image[truth > 0] = (60, 80, 170)
    found = salient_object(image)
    overlap = (found & (truth > 0)).sum() / (found | (truth > 0)).sum()
    assert overlap > 0.95
    assert salient_object(np.full((160, 200, 3), 128, np.uint8)) is None


def test_a_folder_without_whole_objects_says_so(tmp_path):
    cv2.imwrite(str(tmp_path / 'plain.png'), np.full((100, 100, 3), 128, np.uint8))
    with pytest.raises(SourceError, match='shows one whole object'):
        mine(image_files(tmp_path), tmp_path / 'library')
    with pytest.raises(SourceError, match='holds no images'):
        image_files(tmp_path / 'library')


def test_most_photographs_are_used(composites, photos, tmp_path):
    assert len(composites.scenes) >= 12
    files = image_files(photos)
    library = mine(files, tmp_path / 'library')
    held_out = Composites(library, files, held_out=True)
    ours, theirs = ({s.source for s in c.scenes} for c in (composites, held_out))
    assert ours.isdisjoint(theirs)
    assert len(read_library(library)) == len(ours) + len(theirs)


@pytest.mark.parametrize('number', range(12))
def test_samples_are_exact_and_repeatable(composites, number):
    sample, again = composites.sample(number), composites.sample(number)
    assert torch.equal(sample.images, again.images)
    assert sample.images.shape == (2, 3, 128, 160)
    for view in (0, 1):
        masks, boxes = sample.masks[view], sample.boxes[view]
        assert masks.sum(0).max() <= 1, 'a pixel belongs to one object'
        assert len(masks) == len(boxes) == len(sample.ids[view])
        assert len(set(sample.ids[view].tolist())) == len(masks)
        for mask, box in zip(masks, boxes):
            x0, y0, x1, y1 = box.int().tolist()
            assert mask[y0:y1, x0:x1].sum() == mask.sum() >= 40
            assert mask[y0].any() and mask[y1 - 1].any()
            assert mask[:, x0].any() and mask[:, x1 - 1].any()
        assert not (masks.any(0) & sample.ignore[view]).any()


def test_views_of_one_scene_share_objects(composites):
    shared = [
        len(set(s.ids[0].tolist()) & set(s.ids[1].tolist()))
        for s in (composites.sample(i) for i in range(20))
    ]
    assert sum(shared) >= 20


def test_contrast_loss_of_a_hand_computed_case():
    # Two objects, two views; embeddings e and f orthogonal with squared length s.
    s = 2.0
    e, f = torch.tensor([s**0.5, 0]), torch.tensor([0, s**0.5])
    embeddings = torch.stack((e, f, e, f))
    identity, view = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])
    # Each has one positive (logit s) and two negatives (logit 0): ln(1 + 2 exp(-s)).
    expected = np.log(1 + 2 * np.exp(-s))
    assert float(contrast_loss(embeddings, identity, view)) == pytest.approx(expected, rel=1e-5)
    # Each object a scene of its own: nothing to be told from.
    embeddings.requires_grad_()
    loss = contrast_loss(embeddings, identity, view, scene=identity)
    loss.backward()
    assert loss.item() == 0.0 and embeddings.grad.isfinite().all()
    alone = contrast_loss(embeddings[:2], identity[:2], view[:2])
    assert alone.item() == 0.0


def test_released_losses_of_hand_computed_cases():
    # Two positives (1, 3), one negative (2), and a row without positives, which drops out.
    dots = torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0]])
    positive = torch.tensor([[True, True, False], [False, False, False]])
    together = np.log(np.exp(2) + (np.exp(1) + np.exp(3)) / 2)
    assert float(released_contrast_loss(dots, positive)) == pytest.approx(together - 2, rel=1e-5)
    # One positive (0.6): error 0.16; of the negatives the three worst: 0.5, 0.3, 0.2 less 0.1.
    cosines = torch.tensor([[0.6, 0.5, 0.3, 0.2, 0.15, -0.9]])
    one = torch.tensor([[True, False, False, False, False, False]])
    margin = (0.16 + 0.16 + 0.04 + 0.01) / 4
    assert float(released_margin_loss(cosines, one)) == pytest.approx(margin, rel=1e-5)
    nothing = torch.zeros_like(one)
    assert float(released_contrast_loss(cosines, nothing)) == 0
    assert float(released_margin_loss(cosines, nothing)) == 0


def test_unknown_share_counts_pixels():
    ignore = torch.zeros(10, 10, dtype=torch.bool)
    ignore[:, :5] = True
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 5, 10], [5, 0, 10, 10], [4, 0, 8, 4.0]])
    assert unknown_share(ignore, boxes).tolist() == [0.5, 1.0, 0.0, 0.25]


def test_match_without_objects():
    nothing = Target(
        torch.zeros(0, 4),
        torch.zeros(0, 8, 8),
        torch.zeros(0, dtype=torch.long),
        torch.zeros(8, 8, dtype=torch.bool),
    )
    iou, index = match(torch.tensor([[0, 0, 4, 4.0]]), nothing)
    assert iou.tolist() == [0.0]
    assert index.tolist() == [0]


def test_a_scene_without_objects_trains_too(composites):
    empty = composites.sample(0)
    images, targets = to_batch([(0, empty)])
    blank = [
        Target(t.boxes[:0], t.masks[:0], t.ids[:0], torch.zeros_like(t.ignore)) for t in targets
    ]
    network = MasaNetwork(model_config('masa_nano').network)
    losses = objective(network, images.float() / 100, blank, LossConfig())
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()


def test_every_loss_falls_and_a_run_can_be_resumed(composites, tmp_path):
    config = TrainConfig(
        'masa_nano', tmp_path, steps=40, pairs=2, warmup=5, workers=0, save_every=20
    )
    weights = train(config, composites)
    with (tmp_path / 'metrics.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    events = EventAccumulator(str(tmp_path / 'events'))
    events.Reload()
    drawn = [event.value for event in events.Scalars('metrics/total')]
    np.testing.assert_allclose(drawn, [float(row['total']) for row in rows], rtol=1e-3)
    for name in ('total', 'rpn_score', 'box_score', 'mask'):
        first = np.mean([float(row[name]) for row in rows[:10]])
        last = np.mean([float(row[name]) for row in rows[-10:]])
        assert last < first, name
    network = MasaNetwork(model_config('masa_nano').network)
    assert checkpoints.load(network, weights, model_config('masa_nano'))['steps'] == '40'
    again = TrainConfig('masa_nano', tmp_path, steps=42, pairs=2, warmup=5, workers=0, resume=True)
    train(again, composites)
    with (tmp_path / 'metrics.csv').open() as file:
        assert [row['step'] for row in csv.DictReader(file)][-2:] == ['41', '42']


def test_a_resumed_run_is_the_run_that_was_not_interrupted(composites, tmp_path):
    options = {'pairs': 1, 'warmup': 2, 'workers': 0, 'precision': 'fp32', 'steps': 6}
    config = TrainConfig('masa_nano', tmp_path / 'whole', **options)
    train(config, composites)

    class StopError(Exception):
        pass

    class Source:
        def sample(self, index):
            if index == 3:
                raise StopError
            return composites.sample(index)

    parts = dataclasses.replace(config, output=tmp_path / 'parts', save_every=3)
    with pytest.raises(StopError):
        train(parts, Source())
    train(dataclasses.replace(parts, resume=True), composites)
    whole, resumed = (
        load_file(tmp_path / name / 'checkpoint.safetensors') for name in ('whole', 'parts')
    )
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    assert json.loads((tmp_path / 'parts/config.json').read_text())['steps'] == 6


def test_two_processes_take_the_steps_of_one(photos, tmp_path):
    options = [
        *('train', '--images', str(photos), '--steps', '4', '--pairs', '2', '--size', '96'),
        *('--workers', '0', '--precision', 'fp32', '--device', 'cpu', '--threads', '1'),
        *('--learning-rate', '1e-3', '--output'),
    ]
    mine(image_files(photos), tmp_path / 'one/cutouts')
    mine(image_files(photos), tmp_path / 'two/cutouts')
    torchrun = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', '-m']
    for start, name in ((['-m'], 'one'), (torchrun, 'two')):
        command = [sys.executable, *start, 'masa_ros.cli', *options, str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, cwd='/', timeout=240)
        assert done.returncode == 0, done.stderr[-2000:]
    torch.manual_seed(0)
    start = MasaNetwork(model_config('masa_nano').network).state_dict()
    one, two = (load_file(tmp_path / name / 'checkpoint.safetensors') for name in ('one', 'two'))
    moved = apart = 0.0
    for name, value in start.items():
        if value.is_floating_point():
            first, second = one[f'network.{name}'], two[f'network.{name}']
            moved += float((first - value).square().sum())
            apart += float((first - second).square().sum())
    assert moved > 1e-3
    assert apart < 1e-3 * moved
    rows = [
        list(csv.DictReader((tmp_path / name / 'metrics.csv').open())) for name in ('one', 'two')
    ]
    for ours, theirs in zip(*rows):
        for key in ('total', 'contrast', 'mask', 'rpn_score'):
            assert float(ours[key]) == pytest.approx(float(theirs[key]), rel=2e-2, abs=1e-3)


def test_clips_go_smoothly_from_one_view_to_the_other(composites):
    shifts = []
    for number in range(4):
        frames = clip(composites, number)
        assert len(frames) == 16
        truths = [truth.instances for _, truth in frames]
        for before, after in itertools.pairwise(truths):
            for i, j in zip(*np.nonzero(before.track_ids[:, None] == after.track_ids[None])):
                shifts.append(np.abs(before.boxes[i] - after.boxes[j]).max())
    assert 0 < np.median(shifts) < 8
    again = clip(composites, 3)
    assert all(np.array_equal(a.image, b.image) for (a, _), (b, _) in zip(frames, again))


def test_a_network_that_was_trained_tracks_in_clips(composites):
    clips = [clip(composites, number) for number in range(2)]
    trained = tracking(Detector.load(DetectorConfig(device='cpu')), clips)
    model = model_config('masa_nano')
    random = Detector(model, MasaNetwork(model.network), DetectorConfig(), 'cpu')
    assert trained['hota'] > 0.3 > 0.05 > tracking(random, clips)['hota']


def test_retrieval_counts_who_is_nearest_to_himself():
    first = np.array([[1.0, 0], [0, 1], [1, 1]], np.float32)
    second = np.array([[0.0, 2], [3, 0.1]], np.float32)
    ids = torch.tensor([4, 7, 9]), torch.tensor([7, 4])
    assert nearest_is_own([(first, second)], [ids]) == 1.0
    wrong = torch.tensor([4, 7, 9]), torch.tensor([4, 7])
    assert nearest_is_own([(first, second)], [wrong]) == 0.0
    assert nearest_is_own([(first, second), (first, second)], [ids, wrong]) == 0.5


def test_frozen_parts_keep_their_weights(composites, tmp_path):
    options = {'pairs': 1, 'warmup': 1, 'workers': 0, 'steps': 2, 'freeze': ('backbone', 'boxes')}
    train(TrainConfig('masa_nano', tmp_path, **options), composites)
    torch.manual_seed(0)
    start = MasaNetwork(model_config('masa_nano').network).state_dict()
    trained = load_file(tmp_path / 'checkpoint.safetensors')
    for name, value in start.items():
        same = torch.equal(trained[f'network.{name}'], value)
        if name.startswith(('backbone.', 'boxes.')):
            assert same, name
        elif name.endswith('conv.weight') and name.startswith(('pyramid.', 'embed.')):
            assert not same, name


@pytest.mark.parametrize(
    'options, message',
    [
        ({'precision': 'int8'}, 'precision'),
        ({'freeze': ('wheels',)}, "no part 'wheels'"),
        ({'model': 'masa_nono'}, 'masa_nono'),
        ({'weights': '/nowhere.safetensors'}, 'nowhere'),
    ],
)
def test_options_that_do_not_fit_are_named(composites, tmp_path, options, message):
    config = dataclasses.replace(TrainConfig('masa_nano', tmp_path), **options)
    with pytest.raises((ConfigError, WeightsError), match=message):
        train(config, composites)


def test_a_checkpoint_of_something_else_is_refused(composites, tmp_path):
    (tmp_path / 'checkpoint.safetensors').write_bytes(b'no checkpoint')
    config = TrainConfig('masa_nano', tmp_path, resume=True, workers=0)
    with pytest.raises(WeightsError, match='no checkpoint of this run'):
        train(config, composites)


def test_the_command_trains_on_a_folder(photos, tmp_path, capsys):
    arguments = ['train', '--images', str(photos), '--output', str(tmp_path)]
    options = ['--steps', '2', '--pairs', '1', '--size', '128', '--workers', '0']
    assert cli.main([*arguments, *options, '--evaluate-every', '2']) == 0
    (row,) = csv.DictReader((tmp_path / 'evaluation.csv').open())
    assert set(row) == {'step', 'ar', 'r50', 'mask_ar', 'retrieval', 'hota', 'idf1'}
    assert all(0 <= float(row[key]) <= 1 for key in row if key != 'step')
    assert (tmp_path / 'masa_nano.safetensors').is_file()
    assert cli.main(['train', '--images', str(tmp_path / 'x'), '--output', str(tmp_path)]) == 2
