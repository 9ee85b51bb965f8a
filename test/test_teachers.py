# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What several teachers say of photographs and recordings, and how it is kept."""

import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from masa_ros import cli
from masa_ros.errors import ConfigError, SourceError, WeightsError
from masa_ros.masks import crop
from masa_ros.models.zoo import model_config
from masa_ros.training import teachers
from masa_ros.training.cutouts import mine, read_library
from masa_ros.training.data import Photographs
from masa_ros.training.proposals import (
    Entry,
    Linker,
    Proposal,
    extract_frames,
    read_proposals,
    with_known,
)
from masa_ros.training.proposals_writing import write_proposals
from masa_ros.training.teachers import Taught, Teacher, by_teachers
from masa_ros.training.views import Known, Labelled, ViewConfig, make_pair

SHARED = Path(os.environ.get('MASA_ROS_SHARED', Path(__file__).parents[2] / 'shared'))
NANO = model_config('masa_nano')
WEIGHTS = SHARED / 'pretrained/weights'


def proposal(x, y, side=20, **more):
    return Proposal(np.array([x, y, x + side, y + side], np.float32), None, 0.9, **more)


def test_objects_keep_their_numbers_along_a_recording():
    link = Linker()
    first = link([proposal(10, 10), proposal(60, 10)], Path('a/0.jpg'))
    assert [p.track_id for p in first] == [1, 2]
    # In another order, a little further on, and one that is new.
    second = link([proposal(64, 12), proposal(90, 50), proposal(14, 12)], Path('a/1.jpg'))
    assert [p.track_id for p in second] == [2, 3, 1]
    # Two where one was: the one that fits better goes on.
    third = link([proposal(18, 12), proposal(15, 12)], Path('a/2.jpg'))
    assert [p.track_id for p in third] == [4, 1]
    other = link([proposal(18, 12)], Path('b/0.jpg'))
    assert [p.track_id for p in other] == [5]


def test_videos_are_taken_apart_once(tmp_path):
    video = tmp_path / 'clip.mp4'
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*'mp4v'), 10, (64, 48))
    for i in range(7):
        writer.write(np.full((48, 64, 3), 30 * i, np.uint8))
    writer.release()
    files = extract_frames([video], tmp_path / 'frames', 3)
    assert [file.name for file in files] == ['00000.jpg', '00003.jpg', '00006.jpg']
    assert abs(int(cv2.imread(str(files[1])).mean()) - 90) < 6
    files[0].unlink()
    assert len(extract_frames([video], tmp_path / 'frames', 3)) == 2
    with pytest.raises(SourceError, match='holds other frames than every 2: delete it'):
        extract_frames([video], tmp_path / 'frames', 2)
    (tmp_path / 'bad.mp4').write_bytes(b'no video')
    with pytest.raises(SourceError, match=r'bad\.mp4: no frame can be read'):
        extract_frames([tmp_path / 'bad.mp4'], tmp_path / 'frames', 1)


def test_true_masks_take_the_place_of_boxes(tmp_path):
    truth = np.zeros((60, 80), np.uint8)
    truth[10:50, 20:40] = 255
    cv2.imwrite(str(tmp_path / 'a.png'), truth)
    same = Proposal(np.array([19, 9, 41, 52], np.float32), None, 0.8)
    locate = with_known(tmp_path, lambda image: [same, proposal(50, 30)])
    found = locate(np.zeros((60, 80, 3), np.uint8), Path('a.jpg'))
    assert [p.mask is not None for p in found] == [True, False]
    assert found[0].box.tolist() == [20, 10, 40, 50]
    assert len(locate(np.zeros((60, 80, 3), np.uint8), Path('b.jpg'))) == 2
    # At the size of the photograph.
    (large, _) = locate(np.zeros((120, 160, 3), np.uint8), Path('a.jpg'))[:2]
    assert large.box.tolist() == [40, 20, 80, 100]


@pytest.fixture
def written(tmp_path):
    """A recording of three frames with a mask, a box and a doubtful box."""
    folder = tmp_path / 'images'
    (folder / 'clip').mkdir(parents=True)
    for i in range(3):
        cv2.imwrite(str(folder / f'clip/{i}.png'), np.full((100, 120, 3), 60 * i, np.uint8))
    files = sorted(folder.rglob('*.png'))

    def locate(image, path):
        mask = np.zeros((100, 120), bool)
        mask[5:25, 5:25] = True
        step = int(path.stem) * 3
        return [
            Proposal.of(crop(mask), 0.9)._replace(track_id=7),
            proposal(40 + step, 40, 30, track_id=8),
            proposal(80, 5, 30, doubtful=True, track_id=9),
        ]

    write_proposals(files, folder, tmp_path / 'out', locate, 'test')
    return folder, tmp_path / 'out'


def test_boxes_doubts_and_tracks_are_written_and_read_back(written):
    folder, out = written
    first, second, _ = read_proposals(out, folder)
    assert first.kinds == (Known.MASK, Known.BOX, Known.DOUBTFUL)
    assert second.tracks == (7, 8, 9) and second.linked
    masks = second.decode(100, 120)
    assert masks[0].sum() == 400 and masks[1].sum() == 900 and masks[1][41, 44]
    assert second.decode(50, 60)[1].sum() == pytest.approx(225, abs=16)
    assert first.only_mask(100, 120).sum() == 400
    document = json.loads((out / 'proposals-00000.json').read_text())
    assert [a['iscrowd'] for a in document['annotations'][:3]] == [0, 0, 1]
    assert 'segmentation' not in document['annotations'][1]


def test_damaged_boxes_are_told(written):
    entry = read_proposals(written[1], written[0])[0]
    for box, words in (
        ([1, 2, 3], 'four numbers'),
        ([1, 2, 3, 'a'], 'finite numbers'),
        ([1, 2, 3, float('nan')], 'finite numbers'),
        ({}, 'four numbers'),
    ):
        bad = entry._replace(shapes=(entry.shapes[0], box, entry.shapes[2]))
        with pytest.raises(ValueError, match=f'mask 1: .*{words}'):
            bad.decode(100, 120)


def test_two_frames_of_a_recording_share_their_objects(written):
    entries = read_proposals(written[1], written[0])
    views = ViewConfig((96, 96), scale=(1.0, 1.1), shift=0.0, mixup=0.0)
    scenes = Photographs(entries, views, exhaustive=True)
    assert scenes.weight == 0.75
    apart = shared = 0
    for index in range(30):
        pair = scenes.pair(index)
        ids = [dict(zip(i.tolist(), k.tolist())) for i, k in zip(pair.ids, pair.kinds)]
        for number in ids[0].keys() & ids[1].keys():
            assert ids[0][number] == ids[1][number] == {1: 0, 2: 1, 3: 2}[number]
            shared += 1
        means = [float(image.float().mean()) for image in pair.images]
        apart += abs(means[0] - means[1]) > 40
    assert shared > 40 and apart >= 3


def test_boxes_are_not_turned_and_doubts_arrive():
    image = np.full((100, 100, 3), 90, np.uint8)
    mask = np.zeros((2, 100, 100), bool)
    mask[0, 30:70, 20:80], mask[1, 5:20, 5:20] = True, True
    kinds = np.array([Known.BOX, Known.DOUBTFUL], np.uint8)
    seen = Labelled(image, mask, True, kinds, np.arange(2))
    config = ViewConfig((100, 100), scale=(1.0, 1.0), rotation=40, shift=0.0, mixup=0.0)
    pair = make_pair([(seen, seen)], config, np.random.default_rng(0))
    for view in (0, 1):
        assert pair.kinds[view].tolist() == [Known.BOX, Known.DOUBTFUL]
        x0, y0, x1, y1 = pair.boxes[view][0].tolist()
        assert (x1 - x0, y1 - y0) == (60, 40)
        assert pair.masks[view][0].all(1).sum() == 0 and not pair.ignore[view].any()


def test_known_masks_become_cutouts(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (90, 60, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    mask = np.zeros((90, 60), bool)
    mask[10:80, 20:40] = True
    library = mine([tmp_path / 'a.png'], tmp_path / 'out', {tmp_path / 'a.png': lambda h, w: mask})
    (scene,) = read_library(library)
    np.testing.assert_array_equal(scene.mask, mask)


def taught(*rows):
    """Boxes with scores and classes."""
    boxes, scores, labels = zip(*rows)
    return Taught(np.float32(boxes), np.float32(scores), np.int64(labels))


def test_what_teachers_are_sure_of_is_whole(monkeypatch):
    person, half, group = (20, 10, 50, 90), (22, 12, 48, 45), (18, 8, 98, 92)
    bag, dim, faint = (24, 50, 40, 70), (70, 20, 95, 60), (2, 2, 12, 12)
    found = taught(
        *((person, 0.9, 0), (half, 0.6, 0), (group, 0.5, 0), (bag, 0.5, 26)),
        *((dim, 0.3, 2), (faint, 0.1, 2)),
    )
    told = Teacher(lambda image: found, 0.4)
    monkeypatch.setitem(teachers.KINDS, 'told', lambda path, device: told)
    image = np.zeros((100, 120, 3), np.uint8)
    proposals = by_teachers([('told', Path('none'))], 'cpu')(image)
    sure = {tuple(p.box.tolist()) for p in proposals if not p.doubtful}
    doubtful = {tuple(p.box.tolist()) for p in proposals if p.doubtful}
    assert sure == {person, bag}  # a bag within a person is no part of one
    assert doubtful == {half, group, dim}


def test_teachers_are_named(monkeypatch, capsys):
    with pytest.raises(ConfigError, match="no teacher is called 'resnet'; there are: masa_nano,"):
        by_teachers([('resnet', Path('x'))], 'cpu')
    images = ['proposals', '--images', 'x', '--output', 'y']
    assert cli.main([*images, '--teacher', 'masa_nano']) == 2
    monkeypatch.setitem(sys.modules, 'ncnn', None)  # not installed
    assert cli.main([*images, '--teacher', 'yolox_nano=x', '--device', 'cpu']) == 2
    assert "pip install 'masa_ros[training]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    'name, weights',
    [
        ('masa_nano', NANO.shipped_weights),
        ('yolox_nano', WEIGHTS / 'yoloxN.param'),
        ('nanodet_plus', WEIGHTS / 'nanodet-plus-m_416.param'),
    ],
)
def test_published_detectors_find_people(name, weights, tmp_path):
    if name != 'masa_nano':
        pytest.importorskip('ncnn')
    if not WEIGHTS.is_dir():
        pytest.skip(f'there are no detectors at {WEIGHTS}')
    find = by_teachers([(name, weights)], 'cpu')
    folder = SHARED / 'data/people'
    file = sorted((folder / 'images').iterdir())[0]
    image = np.ascontiguousarray(cv2.imread(str(file))[:, :, ::-1])
    mask = cv2.imread(str(folder / 'masks' / f'{file.stem}.png'), cv2.IMREAD_GRAYSCALE) > 0
    ys, xs = np.nonzero(mask)
    truth = np.array([xs.min(), ys.min(), xs.max(), ys.max()])
    best = max(find(image), key=lambda p: p.score)
    assert not best.doubtful
    assert np.abs(best.box - truth).max() < 0.12 * (truth[3] - truth[1])
    (tmp_path / 'x.param').write_text('nothing\n1 1\nInput x 0 1 x\n')
    with pytest.raises(WeightsError, match=r'x\.param'):
        by_teachers([(name, tmp_path / 'x.param')], 'cpu')


def test_entries_of_masks_alone_are_no_cutouts():
    masks = Entry(Path('x'), ([], []), (Known.MASK, Known.MASK), (0, 0), (10, 10))
    assert masks.only_mask is None and not masks.linked


def test_the_commands_go_from_photographs_and_videos_to_weights(tmp_path, capsys):
    photos, videos, masks = (tmp_path / name for name in ('photos', 'videos', 'masks'))
    for folder in (photos, videos, masks):
        folder.mkdir()
    truth = np.zeros((120, 160), np.uint8)
    cv2.ellipse(truth, (80, 60), (40, 30), 0, 0, 360, 255, -1)
    for name in 'abcd':
        image = np.full((120, 160, 3), 200, np.uint8)
        image[truth > 0] = (40, 60, 180)
        cv2.imwrite(str(photos / f'{name}.png'), image)
        cv2.imwrite(str(masks / f'{name}.png'), truth)
    code = cv2.VideoWriter_fourcc(*'mp4v')
    writer = cv2.VideoWriter(str(videos / 'v.mp4'), code, 10, (160, 120))
    for i in range(4):
        writer.write(np.roll(image, 4 * i, axis=1))
    writer.release()
    teacher = ['--teacher', f'masa_nano={NANO.shipped_weights}', '--device', 'cpu']
    out = [tmp_path / 'known', tmp_path / 'clips']
    made = ['proposals', '--images', str(photos), '--masks', str(masks), '--output', str(out[0])]
    assert cli.main([*made, *teacher]) == 0
    made = ['proposals', '--images', str(videos), '--every', '1', '--output', str(out[1])]
    assert cli.main([*made, *teacher]) == 0
    assert 'instances of 4 images' in capsys.readouterr().out
    entries = read_proposals(out[0], photos)
    assert len(entries) == 4 and all(entry.only_mask is not None for entry in entries)
    images = ['--images', str(photos), str(out[1] / 'frames')]
    made = ['train', *images, '--proposals', *map(str, out), '--exhaustive', '--steps', '2']
    made += ['--pairs', '1', '--size', '96', '--workers', '0', '--output', str(tmp_path / 'run')]
    assert cli.main(made) == 0
    assert (tmp_path / 'run/masa_nano.safetensors').is_file()
    assert cli.main([*made, '--proposals', *map(str, out), str(out[0])]) == 2
    assert 'belong together' in capsys.readouterr().err
