# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
import itertools
import json
from types import MappingProxyType

import cv2
import numpy as np
import pytest
import torch

from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.errors import SourceError
from masa_ros.models.network import MasaNetwork
from masa_ros.models.zoo import model_config
from masa_ros.training.composites import Composites
from masa_ros.training.cutouts import image_files, is_held_out, mine, read_library, salient_object
from masa_ros.training.losses import (
    contrast_loss,
    objective,
    released_contrast_loss,
    released_margin_loss,
)
from masa_ros.training.measure import clip, eager, nearest_is_own, tracking
from masa_ros.training.targets import LossConfig, Target, match, unknown_share
from masa_ros.training.train import Drawn, TrainConfig, to_batch, train

HELD_OUT = ['6', '29', '37', '40', '48']  # of the names 0 .. 59


def draw_photos(folder):
    """Photographs of one plain body each before a soft ground with some grain."""
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
def photos(tmp_path_factory):
    return draw_photos(tmp_path_factory.mktemp('photos'))


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
    assert theirs and ours.isdisjoint(theirs)
    assert len(read_library(library)) == len(ours) + len(theirs)
    # The decisions that the shipped weights were trained by.
    assert [name for name in map(str, range(60)) if is_held_out(name)] == HELD_OUT


def test_photographs_of_one_name_in_two_folders_are_two(photos, tmp_path):
    first, second = (cv2.imread(str(file)) for file in image_files(photos)[:2])
    for name, image in (('a', first), ('b', second)):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / '00.png'), image)
    files = [tmp_path / name / '00.png' for name in 'ab']
    scenes = read_library(mine(files, tmp_path / 'library'))
    assert [scene.source for scene in scenes] == ['00', '00']
    for scene, image in zip(scenes, (first, second)):
        assert np.abs(scene.image[:, :, ::-1].astype(int) - image).mean() < 5


def test_libraries_of_another_kind_are_refused(photos, tmp_path):
    files = image_files(photos)[:2]
    index = mine(files, tmp_path) / 'index.json'
    good = json.loads(index.read_text())
    one = good['scenes'][0]
    for other, words in (
        ({'format': 'masa_ros.cutouts/1', 'scenes': ['00', '01']}, 'cutouts/1'),
        ([], 'no object'),
        (good | {'scenes': []}, 'damaged'),
        (good | {'scenes': [one, one]}, 'damaged'),
        (good | {'scenes': [one | {'name': '../00'}]}, 'damaged'),
        (good | {'scenes': ['00']}, 'no object'),
    ):
        index.write_text(json.dumps(other))
        for act in (read_library, lambda library: mine(files, library)):
            with pytest.raises(SourceError, match=f'{words}.*delete the folder'):
                act(tmp_path)
    index.write_text(json.dumps(good)[:40])
    with pytest.raises(SourceError, match='no json'):
        mine(files, tmp_path)
    index.unlink()  # mining was interrupted: it is done again
    assert json.loads((mine(files, tmp_path) / 'index.json').read_text()) == good
    (tmp_path / f'{one["name"]}.png').write_bytes(b'no image')
    with pytest.raises(SourceError, match=f'{one["name"]} cannot be read'):
        read_library(tmp_path)


def test_the_rest_of_the_process_keeps_its_threads(composites, photos, tmp_path):
    library, before = mine(image_files(photos), tmp_path), cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        made = Composites(library, image_files(photos), (64, 64))
        made.pair(0)
        assert cv2.getNumThreads() == 3
        # Processes that make scenes for a training do with one.
        options = {'steps': 2, 'pairs': 1, 'warmup': 1, 'workers': 1}
        train(TrainConfig('masa_nano', tmp_path / 'run', **options), Single(made))
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)


class Single:
    """Scenes that are made by one thread, or not at all."""

    left_out = MappingProxyType({})

    def __init__(self, scenes):
        self.scenes = scenes

    def pair(self, index):
        assert cv2.getNumThreads() <= 1
        return self.scenes.pair(index)


@pytest.mark.parametrize('number', range(12))
def test_pairs_are_exact_and_repeatable(composites, number):
    pair, again = composites.pair(number), composites.pair(number)
    assert pair.generated == again.generated
    for ours, theirs in zip(pair[:-1], again[:-1]):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs))
    assert not torch.equal(pair.images, composites.pair(number + 1).images)
    assert pair.images.shape == (2, 3, 128, 160)
    assert sum(map(len, pair.ids)) > 0
    for view in (0, 1):
        masks, boxes = pair.masks[view], pair.boxes[view]
        assert not len(masks) or masks.sum(0).max() == 1, 'a pixel belongs to one object'
        assert len(masks) == len(boxes) == len(pair.ids[view])
        assert len(set(pair.ids[view].tolist())) == len(masks)
        for mask, box in zip(masks, boxes):
            x0, y0, x1, y1 = box.int().tolist()
            assert mask[y0:y1, x0:x1].sum() == mask.sum() >= 40
            assert mask[y0].any() and mask[y1 - 1].any()
            assert mask[:, x0].any() and mask[:, x1 - 1].any()
        assert not (masks.any(0) & pair.ignore[view]).any()


def test_scenes_of_one_photograph_are_not_taken_for_generated_ones(composites):
    generated = [composites.pair(number).generated for number in range(60)]
    assert 0.7 < np.mean(generated) < 0.97
    _, targets = to_batch([Drawn(n, composites.pair(n)) for n in range(60)])
    assert [target.generated for target in targets] == generated * 2


def test_views_of_one_scene_share_objects(composites):
    shared = [
        len(set(s.ids[0].tolist()) & set(s.ids[1].tolist()))
        for s in (composites.pair(i) for i in range(20))
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


def blank(ignore):
    """A target without objects."""
    none = torch.zeros(0, dtype=torch.long)
    shape = (0, *ignore.shape)
    return Target(
        torch.zeros(0, 4), torch.zeros(shape), none, ignore, none.bool(), torch.zeros(0, 4)
    )


def test_match_without_objects():
    nothing = blank(torch.zeros(8, 8, dtype=torch.bool))
    iou, index = match(torch.tensor([[0, 0, 4, 4.0]]), nothing)
    assert iou.tolist() == [0.0]
    assert index.tolist() == [0]


@pytest.mark.parametrize('model', ['masa_nano', 'masa_nano2'])
def test_a_scene_without_objects_trains_too(composites, model):
    empty = composites.pair(0)
    images, targets = to_batch([Drawn(0, empty)])
    network = MasaNetwork(model_config(model).network)
    nothing = [blank(torch.zeros_like(target.ignore)) for target in targets]
    losses = objective(network, images.float() / 100, nothing, LossConfig())
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert any(gradient.any() for gradient in gradients)  # what is background is learned
    assert all(gradient.isfinite().all() for gradient in gradients)


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
    trained = tracking(eager(MasaDetector.load(DetectorConfig(device='cpu'))), clips)
    model = model_config('masa_nano')
    random = MasaDetector(model, MasaNetwork(model.network), DetectorConfig(), 'cpu')
    assert trained['hota'] > 0.3 > 0.05 > tracking(eager(random), clips)['hota']


def test_retrieval_counts_who_is_nearest_to_himself():
    first = np.array([[1.0, 0], [0, 1], [1, 1]], np.float32)
    second = np.array([[0.0, 2], [3, 0.1]], np.float32)
    ids = torch.tensor([4, 7, 9]), torch.tensor([7, 4])
    assert nearest_is_own([(first, second)], [ids]) == 1.0
    wrong = torch.tensor([4, 7, 9]), torch.tensor([4, 7])
    assert nearest_is_own([(first, second)], [wrong]) == 0.0
    assert nearest_is_own([(first, second), (first, second)], [ids, wrong]) == 0.5
