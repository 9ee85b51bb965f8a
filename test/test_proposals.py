# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Photographs with proposals as a source of training: files, views, mixtures."""

import dataclasses
import json
import re

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from masa_ros import cli
from masa_ros.detectors.everything import EverythingConfig, EverythingDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.errors import ConfigError, SourceError, WeightsError
from masa_ros.masks import crop
from masa_ros.training import views
from masa_ros.training.data import Mixture, Photographs
from masa_ros.training.proposals import (
    Entry,
    Proposal,
    by_agreement,
    by_sam,
    read_proposals,
)
from masa_ros.training.proposals_writing import write_proposals
from masa_ros.training.train import TrainConfig, train
from masa_ros.training.views import Known, Labelled, ViewConfig, make_pair
from masa_ros.types import Instances

COLOURS = [(220, 40, 40), (40, 220, 40), (40, 40, 220), (220, 220, 40), (220, 40, 220)]


def picture(seed=0, size=(150, 200)):
    """Discs of plain colours on grey, and their masks."""
    rng = np.random.default_rng(seed)
    image = np.full((*size, 3), 114, np.uint8)
    masks = []
    for i, colour in enumerate(COLOURS):
        mask = np.zeros(size, np.uint8)
        centre = (int(25 + 36 * i + rng.integers(-4, 5)), int(rng.integers(30, size[0] - 30)))
        cv2.circle(mask, centre, int(rng.integers(10, 16)), 1, -1)
        image[mask > 0] = colour
        masks.append(mask.astype(bool))
    return image, np.array(masks)


@pytest.fixture
def plain(monkeypatch):
    """Leave the colours as they are, so that they tell the objects."""
    monkeypatch.setattr(views, 'photometric', lambda image, rng: image)


@pytest.fixture
def folder(tmp_path):
    """Three photographs."""
    for i in range(3):
        image, _ = picture(i)
        cv2.imwrite(str(tmp_path / f'{i}.png'), image[:, :, ::-1])
    return tmp_path


@pytest.mark.parametrize('seed', range(8))
def test_the_same_number_is_the_same_object_in_both_views(plain, seed):
    image, masks = picture()
    config = ViewConfig(size=(128, 160), mixup=0.0)
    pair = make_pair([labelled(image, masks, False)], config, np.random.default_rng(seed))
    seen = 0
    for view in (0, 1):
        pixels = pair.images[view].permute(1, 2, 0).numpy()
        for number, mask, box in zip(
            pair.ids[view].tolist(), pair.masks[view].numpy(), pair.boxes[view].numpy()
        ):
            middle = cv2.erode(mask.astype(np.uint8), np.ones((5, 5))) > 0
            if middle.any():
                apart = np.abs(pixels[middle].mean(0) - COLOURS[number - 1])
                assert apart.max() < 40
                seen += 1
            ys, xs = np.nonzero(mask)
            assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert mask.sum() >= config.smallest
        covered = pair.masks[view].any(0) if len(pair.masks[view]) else torch.zeros(128, 160)
        assert not (covered.bool() & pair.ignore[view]).any()
    assert seen


def test_blended_photographs_keep_their_pairing(plain):
    scenes = [labelled(*picture(seed), False) for seed in (0, 1)]
    config = ViewConfig(size=(128, 160), mixup=1.0, scale=(0.9, 1.1), shift=0.0)
    pair = make_pair(scenes, config, np.random.default_rng(3))
    for ids in pair.ids:
        assert ids.min() >= 1 and ids.max() > 5  # of the first and of the second
        assert len(set(ids.tolist())) == len(ids)
    assert len(set(pair.ids[0].tolist()) & set(pair.ids[1].tolist())) >= 6
    alone = make_pair(scenes[:1], config, np.random.default_rng(3))
    assert max(alone.ids[0].tolist()) <= 5


def test_what_is_not_covered_is_background_only_where_that_is_known(plain):
    image, masks = picture()
    config = ViewConfig(size=(128, 160), mixup=0.0)
    for exhaustive in (False, True):
        scene = labelled(image, masks, exhaustive)
        pair = make_pair([scene], config, np.random.default_rng(0))
        assert bool(pair.ignore[0].any()) is not exhaustive
    # Beside the photograph there is nothing, and that is known.
    small = ViewConfig(size=(128, 160), mixup=0.0, scale=(0.3, 0.31), shift=0.0)
    pair = make_pair([labelled(image, masks, False)], small, np.random.default_rng(0))
    assert not pair.ignore[0][:5].any()


def test_at_most_so_many_instances_are_kept():
    image, masks = picture()
    config = ViewConfig(size=(128, 160), mixup=0.0, scale=(1.0, 1.1), shift=0.0, instances=2)
    pair = make_pair([labelled(image, masks, True)], config, np.random.default_rng(0))
    assert [len(ids) for ids in pair.ids] == [2, 2]


def by_colour(image, path=None):
    """Find the discs by their colours."""
    found = []
    for colour in COLOURS:
        mask = np.abs(image.astype(int) - colour).max(2) < 10
        if mask.any():
            found.append(Proposal.of(crop(mask), 0.9))
    return found


def labelled(image, masks, exhaustive):
    """A photograph whose masks are all known, in both views."""
    ids = np.arange(len(masks))
    kinds = np.full(len(masks), Known.MASK, np.uint8)
    return (Labelled(image, masks, exhaustive, kinds, ids),) * 2


def entry(path, *shapes, size=(150, 200)):
    """A photograph with masks."""
    kinds = (Known.MASK,) * len(shapes)
    return Entry(path, shapes, kinds, (0,) * len(shapes), size)


def test_proposals_are_written_as_coco_and_read_back(folder, tmp_path):
    files = sorted(folder.glob('*.png'))
    (folder / '3.png').write_text('no image')
    count, unreadable = write_proposals(
        [*files, folder / '3.png'], folder, tmp_path / 'out', by_colour, 'test'
    )
    assert count == 15 and unreadable == ['3.png']
    document = json.loads((tmp_path / 'out/proposals-00000.json').read_text())
    assert len({a['id'] for a in document['annotations']}) == 15
    entries = read_proposals(tmp_path / 'out', folder)
    assert [entry.path.name for entry in entries] == ['0.png', '1.png', '2.png']
    np.testing.assert_array_equal(entries[1].decode(150, 200), picture(1)[1])
    halved = entries[1].decode(75, 100)
    assert halved.shape == (5, 75, 100) and halved.any((1, 2)).all()


def test_finished_files_are_not_made_again(folder, tmp_path, monkeypatch):
    monkeypatch.setattr('masa_ros.training.proposals_writing._A_FILE', 1)
    files, asked = sorted(folder.glob('*.png')), []

    def segment(image, path):
        asked.append(image)
        return by_colour(image)

    write_proposals(files, folder, tmp_path / 'out', segment, 'test')
    assert len(asked) == 3 and len(list((tmp_path / 'out').glob('*.json'))) == 3
    (tmp_path / 'out/proposals-00001.json').unlink()
    write_proposals(files, folder, tmp_path / 'out', segment, 'test')
    assert len(asked) == 4


def test_other_forms_of_masks_are_read(folder):
    square = [[10, 10, 50, 10, 50, 40, 10, 40]]
    flat = np.asfortranarray(picture(0)[1][0].astype(np.uint8))
    packed = coco.encode(flat)
    packed['counts'] = packed['counts'].decode()
    runs = {'size': [150, 200], 'counts': [0, 150, 150 * 199]}
    sa1b = {
        'image': {'file_name': '0.png', 'height': 150, 'width': 200},
        'annotations': [{'segmentation': packed}],
    }
    (folder / 'sa').mkdir()
    (folder / 'sa/sa_1.json').write_text(json.dumps(sa1b))
    (entry,) = read_proposals(folder / 'sa', folder)
    np.testing.assert_array_equal(entry.decode(150, 200)[0], flat)
    document = {
        'images': [{'id': 7, 'file_name': '0.png', 'height': 150, 'width': 200}],
        'annotations': [
            {'image_id': 7, 'segmentation': square, 'iscrowd': 0},
            {'image_id': 7, 'segmentation': runs, 'iscrowd': 0},
            {'image_id': 7, 'segmentation': runs, 'iscrowd': 1},
        ],
    }
    file = folder / 'instances.json'
    file.write_text(json.dumps(document))
    (entry,) = read_proposals(file, folder)
    first, second = entry.decode(150, 200)
    assert abs(int(first.sum()) - 40 * 30) < 80
    assert second[:, 0].all() and second.sum() == 150


def test_files_that_are_no_proposals_say_so(folder):
    bad = folder / 'bad.json'
    bad.write_text('{"images": 3')
    with pytest.raises(SourceError, match='no json'):
        read_proposals(bad, folder)
    for document, words in (
        ({'images': 3, 'annotations': []}, 'the file: images is 3'),
        ({'images': []}, 'the file: neither COCO'),
        ([], 'neither COCO'),
        ({'images': [{'id': []}], 'annotations': []}, r'image 0: id is \[\]'),
        ({'images': [{'id': 1}], 'annotations': []}, 'image 0: file_name is None'),
        ({'images': [], 'annotations': [{'segmentation': 1, 'image_id': 4}]}, 'annotation 0: no'),
        ({'image': {'file_name': 'x.jpg'}, 'annotations': [5]}, 'the file: 5 is no object'),
    ):
        bad.write_text(json.dumps(document))
        with pytest.raises(SourceError, match=f'bad.json, .*{words}'):
            read_proposals(bad, folder)
    for name in ('x\0.jpg', 'x' * 5000):
        item = {'id': 1, 'file_name': name, 'height': 2, 'width': 2}
        bad.write_text(json.dumps({'images': [item], 'annotations': []}))
        with pytest.raises(SourceError, match='none of its 1 images'):
            read_proposals(bad, folder)
    bad.write_text(
        '{"images": [{"id": 1, "file_name": "x.jpg", "height": 2, "width": 2}],"annotations": []}'
    )
    with pytest.raises(SourceError, match='none of its 1 images'):
        read_proposals(bad, folder)


class HalfSeeing:
    """A detector that finds the whole disc in every pass, and half of it in some."""

    def __init__(self, halves):
        self.config, self.halves, self.calls = DetectorConfig(), halves, 0

    def configure(self, config):
        pass

    def encode(self, images):
        return images

    def find(self, image):
        self.calls += 1
        found = [proposal.mask for proposal in by_colour(image)][:1]
        if self.calls <= self.halves:
            half = found[0].full(*image.shape[:2])
            half[: found[0].y + found[0].height // 2] = False
            found.append(crop(half))
        boxes = np.array([[m.x, m.y, m.x + m.width, m.y + m.height] for m in found], np.float32)
        return Instances(
            boxes=boxes,
            scores=np.full(len(found), 0.9, np.float32),
            masks=tuple(found),
        )


@pytest.mark.parametrize('halves, expected', [(1, 1), (2, 1), (3, 2)])
def test_only_what_several_passes_agree_on_is_proposed(halves, expected):
    image, masks = picture()
    found = by_agreement(HalfSeeing(halves))(image)
    assert len(found) == expected
    whole = max(found, key=lambda item: item.mask.pixels.sum()).mask.full(150, 200)
    assert (whole & masks[0]).sum() / (whole | masks[0]).sum() > 0.9


def test_sam_is_asked_for_by_name_and_needs_its_weights(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match='no SAM model'):
        by_sam('masa_r50', 'cpu')
    monkeypatch.setenv('MASA_ROS_WEIGHTS', str(tmp_path))
    with pytest.raises(WeightsError, match='sam_vit_b'):
        by_sam('masa_sam_vitb', 'cpu')


def test_sams_masks_come_with_their_predicted_quality(monkeypatch):
    image, _ = picture()
    masks, scores = zip(*((p.mask, p.score) for p in by_colour(image)))

    class Everything:
        def detect(self, frames):
            boxes = np.array([(m.x, m.y, m.x + m.width, m.y + m.height) for m in masks])
            assert [frame.image is image for frame in frames] == [True]
            return [Instances(boxes.astype(np.float32), np.float32(scores), masks=masks)]

    def load(config, device):
        assert (config, device) == (EverythingConfig('masa_sam_vith'), 'cpu')
        return Everything()

    monkeypatch.setattr(EverythingDetector, 'load', load)
    found = by_sam('masa_sam_vith', 'cpu')(image)
    assert [proposal.mask for proposal in found] == list(masks)
    np.testing.assert_allclose([proposal.score for proposal in found], scores)


def test_photographs_are_scenes_by_number(folder, tmp_path):
    write_proposals(sorted(folder.glob('*.png')), folder, tmp_path / 'out', by_colour, 'test')
    entries = read_proposals(tmp_path / 'out', folder)
    (folder / '1.png').write_text('damaged since')
    blended = ViewConfig(size=(96, 128), mixup=1.0, scale=(0.9, 1.0), shift=0.0)
    early, late = (Photographs(entries, blended, plain_after=n).pair(5) for n in (6, 5))
    assert max(early.ids[0].tolist()) > 5 >= max(late.ids[0].tolist())
    source = Photographs(entries, ViewConfig(size=(96, 128)))
    first, again = source.pair(5), Photographs(entries, ViewConfig(size=(96, 128))).pair(5)
    torch.testing.assert_close(first.images, again.images)
    assert first.images.shape == (2, 3, 96, 128)
    for index in range(12):
        source.pair(index)
    assert list(source.left_out) == [str(folder / '1.png')]


SQUARE = {'size': [150, 200], 'counts': [0, 150, 150 * 199]}


@pytest.mark.parametrize(
    'change, words',
    [
        ({'shapes': ({'size': [150, 200], 'counts': [3]},)}, 'mask 0: .*add up to 3'),
        ({'shapes': (SQUARE, {'size': [150, 200]})}, 'mask 1: .*NoneType'),
        ({'shapes': (SQUARE, 5)}, 'mask 1: 5 is no mask'),
        ({'shapes': ({'size': [150, 200], 'counts': ['a']},)}, 'a run of .a.'),
        ({'shapes': ([[1, 1, 9, 1, 9]],)}, 'no polygon'),
        ({'shapes': ([[1, 1, 9, 1, 9, float('nan')]],)}, 'corner at nan'),
        ({'shapes': ({'a': 1},)}, 'no mask'),
        ({'size': (200, 150)}, 'in an image of 150 x 200'),
        ({'size': (0, 200)}, 'in an image of 200 x 0'),
        ({'size': (-150, 200)}, 'in an image'),
        ({'size': (None, 200)}, 'size of the image is None'),
        ({'size': (150.5, 200)}, 'size of the image is 150.5'),
        ({'size': (0, 0), 'shapes': ([[1, 1, 9, 1, 9, 9]],)}, 'a mask of 0 x 0'),
        ({'path': 'notes.png'}, 'cannot be read'),
        ({'path': 'sliver.png'}, 'cannot be read'),
    ],
)
def test_what_is_damaged_is_left_out(folder, change, words):
    (folder / 'notes.png').write_text('no image')
    cv2.imwrite(str(folder / 'sliver.png'), np.zeros((1, 9000), np.uint8))
    good = entry(folder / '0.png', SQUARE)
    shapes, size = change.get('shapes', (SQUARE,)), change.get('size', (150, 200))
    bad = entry(folder / change.get('path', '1.png'), *shapes, size=size)
    scenes = Photographs([good, bad], ViewConfig(size=(64, 64)))
    for number in range(8):
        assert scenes.pair(number).images.shape == (2, 3, 64, 64)
    assert list(scenes.left_out) == [str(bad.path)]
    assert re.search(words, scenes.left_out[str(bad.path)])
    with pytest.raises(SourceError, match=f'none of 1 images.*{words}'):
        Photographs([bad], ViewConfig(size=(64, 64))).pair(0)


@pytest.mark.parametrize('workers', [0, 1])
def test_a_training_counts_what_it_leaves_out(folder, tmp_path, workers):
    good = entry(folder / '0.png', SQUARE)
    bad = entry(folder / '1.png', {'size': [150, 200]})
    views, told = ViewConfig(size=(64, 64)), []
    options = {'steps': 4, 'pairs': 1, 'workers': workers, 'precision': 'fp32'}
    config = TrainConfig('masa_nano', tmp_path / 'run', **options)
    train(config, Photographs([good, bad], views), log=told.append)
    (line,) = told
    assert line.startswith(f'photographs left out: 1 ({bad.path}: mask 0: ')
    # When nothing is left the error is one line, whichever process met it.
    with pytest.raises(SourceError, match=r'^none of 1 images[^\n]*mask 0: [^\n]*$'):
        train(dataclasses.replace(config, output=tmp_path / 'none'), Photographs([bad], views))


def test_a_mixture_gives_everyone_his_share():
    class Fixed:
        def __init__(self, value):
            self.value = value

        def pair(self, index):
            return self.value

    mixture = Mixture([(0.25, Fixed('a')), (0.75, Fixed('b'))])
    drawn = [mixture.pair(i) for i in range(2000)]
    assert 0.2 < drawn.count('a') / 2000 < 0.3
    assert drawn == [mixture.pair(i) for i in range(2000)]


def test_the_command_trains_on_proposals(folder, tmp_path, capsys):
    write_proposals(sorted(folder.glob('*.png')), folder, tmp_path / 'out', by_colour, 'test')
    arguments = ['train', '--images', str(folder), '--proposals', str(tmp_path / 'out')]
    arguments += ['--share', '1', '--output', str(tmp_path / 'run'), '--steps', '2']
    (folder / 'notes.jpg').write_text('no image')
    assert cli.main([*arguments, '--pairs', '1', '--size', '96', '--workers', '0']) == 0
    printed = capsys.readouterr().out
    assert (
        'masa_nano.safetensors' in printed and '1 of 4 files are no images: notes.jpg' in printed
    )
