# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Metrics, ground-truth formats, the page."""

import contextlib
import dataclasses
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from masa_ros import cli
from masa_ros.errors import SourceError
from masa_ros.evaluation.metrics import evaluate, pair
from masa_ros.evaluation.page import page, timelines
from masa_ros.evaluation.recall import Presence, presence
from masa_ros.evaluation.teta import Observed, teta
from masa_ros.evaluation.truth import read_truth
from masa_ros.recordings.tracks_file import TrackedFrame, write_tracks
from masa_ros.types import Instances, Mask, TrackState

HEIGHT, WIDTH = 120, 160


def objects(*rows, masks=True):
    """Instances from (id, x, y) or (id, x, y, label), 20 x 20 pixels."""
    full = [(*row, -1)[:4] for row in rows]
    box = np.array([(x, y, x + 20, y + 20) for _, x, y, _ in full], np.float32).reshape(-1, 4)
    return Instances(
        boxes=box,
        labels=np.array([row[3] for row in full], np.int32),
        masks=tuple(Mask(x, y, np.ones((20, 20), bool)) for _, x, y, _ in full) if masks else None,
        track_ids=np.array([row[0] for row in full], np.int64),
        states=np.full(len(full), TrackState.TRACKED, np.uint8),
    )


def frames(*instances):
    return [
        TrackedFrame(t, f'{t:05d}.jpg', t * 10**8, HEIGHT, WIDTH, one)
        for t, one in enumerate(instances)
    ]


@pytest.fixture
def crowd():
    """Tracks and truth of a noisy crowd: misses, false tracks, swaps, boxes that are off."""
    rng = np.random.default_rng(1)
    start, speed = rng.uniform(0, 90, (6, 2)), rng.normal(0, 2, (6, 2))
    truth, found = [], []
    for t in range(30):
        place = np.clip(start + t * speed, 0, (WIDTH - 21, HEIGHT - 21)).astype(int)
        truth.append(objects(*((i + 1, *p) for i, p in enumerate(place.tolist()))))
        off = np.clip(place + rng.integers(-4, 5, place.shape), 0, (WIDTH - 21, HEIGHT - 21))
        ids = [11 + (i if t < 15 or i > 1 else 1 - i) for i in range(6)]
        seen = rng.random(6) < 0.8
        rows = [(ids[i], *off[i].tolist()) for i in np.flatnonzero(seen)]
        if t % 3 == 0:
            rows.append((40 + t // 10, *rng.integers(0, 90, 2).tolist()))
        found.append(objects(*rows))
    return frames(*found), frames(*truth)


def without_masks(tracked):
    return [
        dataclasses.replace(f, instances=dataclasses.replace(f.instances, masks=None))
        for f in tracked
    ]


def mot_lines(tracked):
    for frame in tracked:
        for i, (x0, y0, x1, y1) in zip(frame.instances.track_ids, frame.instances.boxes):
            yield f'{frame.index + 1},{i},{x0},{y0},{x1 - x0},{y1 - y0},1,1,1'


def test_figures_equal_trackeval_reading_the_same_files(crowd, tmp_path):
    found, truth = (without_masks(side) for side in crowd)
    gt, ours = tmp_path / 'gt/crowd/gt/gt.txt', tmp_path / 'trackers/masa/data/crowd.txt'
    for path, side in ((gt, truth), (ours, found)):
        path.parent.mkdir(parents=True)
        path.write_text('\n'.join(mot_lines(side)) + '\n')
    with contextlib.redirect_stdout(io.StringIO()):
        import trackeval

        evaluator = trackeval.Evaluator(
            trackeval.Evaluator.get_default_eval_config()
            | {'PLOT_CURVES': False, 'OUTPUT_SUMMARY': False, 'OUTPUT_DETAILED': False}
        )
        dataset = trackeval.datasets.MotChallenge2DBox(
            {
                'GT_FOLDER': str(tmp_path / 'gt'),
                'TRACKERS_FOLDER': str(tmp_path / 'trackers'),
                'SEQ_INFO': {'crowd': 30},
                'SKIP_SPLIT_FOL': True,
                'DO_PREPROC': False,
            }
        )
        kinds = (trackeval.metrics.HOTA, trackeval.metrics.CLEAR, trackeval.metrics.Identity)
        results, _ = evaluator.evaluate([dataset], [kind() for kind in kinds])
    theirs = results['MotChallenge2DBox']['masa']['crowd']['pedestrian']
    scores = evaluate(found, read_truth(gt, found))
    assert scores.similarity == 'box'
    assert scores.hota == pytest.approx(np.mean(theirs['HOTA']['HOTA']), abs=1e-9)
    assert scores.assa == pytest.approx(np.mean(theirs['HOTA']['AssA']), abs=1e-9)
    assert scores.deta == pytest.approx(np.mean(theirs['HOTA']['DetA']), abs=1e-9)
    assert scores.idf1 == pytest.approx(theirs['Identity']['IDF1'], abs=1e-9)
    assert scores.mota == pytest.approx(theirs['CLEAR']['MOTA'], abs=1e-9)
    assert scores.id_switches == theirs['CLEAR']['IDSW'] > 0


def as_coco(truth, layout):
    """The truth as TAO-like or YouTube-VIS-like json, with run lengths."""
    size = [HEIGHT, WIDTH]

    def rle(mask):
        found = coco.encode(np.asfortranarray(mask.full(HEIGHT, WIDTH).astype(np.uint8)))
        return {'size': size, 'counts': found['counts'].decode()}

    def xywh(box):
        return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]

    videos = [{'id': 3, 'name': 'val/crowd'}, {'id': 4, 'name': 'val/other'}]
    annotations = []
    if layout == 'tao':
        for frame in truth:
            one = frame.instances
            for i, box, mask in zip(one.track_ids.tolist(), one.boxes, one.masks):
                annotations.append(
                    {'image_id': 100 + frame.index, 'track_id': i, 'bbox': xywh(box),
                     'segmentation': rle(mask), 'category_id': 5}
                )  # fmt: skip
        annotations.append(annotations[0] | {'track_id': 99, 'iscrowd': 1})
        images = [
            {'id': 100 + f.index, 'video_id': 3, 'file_name': f'val/crowd/{f.source}'}
            for f in truth
        ]
        images.append({'id': 7, 'video_id': 4, 'file_name': f'val/other/{truth[0].source}'})
        categories = [{'id': 5, 'name': 'car'}]
        return {'videos': videos, 'images': images, 'annotations': annotations,
                'categories': categories}  # fmt: skip
    for i in range(1, 7):
        rows = [f.instances for f in truth]
        masks = [one.masks[one.track_ids.tolist().index(i)] for one in rows]
        annotations.append({'id': i, 'video_id': 3, 'segmentations': [rle(m) for m in masks]})
    return {'videos': videos, 'annotations': annotations}


def written(truth, kind, tmp_path):
    """The truth as a file or folder of a kind."""
    path = tmp_path / f'{kind}.json'
    if kind == 'tracks':
        write_tracks(path, 'truth', truth)
    elif kind in ('tao', 'youtube_vis'):
        path.write_text(json.dumps(as_coco(truth, kind)))
    elif kind == 'scalabel':
        document = [
            {'name': f.source, 'videoName': 'crowd', 'frameIndex': f.index,
             'labels': [
                {'id': f'car-{i}', 'category': 'car',
                 'rle': {'size': [HEIGHT, WIDTH], 'counts': coco.encode(np.asfortranarray(
                     m.full(HEIGHT, WIDTH).astype(np.uint8)))['counts'].decode()},
                 'box2d': dict(zip(('x1', 'y1', 'x2', 'y2'), map(float, box)))}
                for i, box, m in zip(f.instances.track_ids, f.instances.boxes, f.instances.masks)
             ] + [{'id': 'x', 'category': 'car', 'attributes': {'crowd': True}}]}
            for f in truth
        ]  # fmt: skip
        path.write_text(json.dumps({'frames': document, 'config': {}}))
    else:
        path = tmp_path / 'png'
        path.mkdir()
        for f in truth:
            ids = np.zeros((HEIGHT, WIDTH), np.uint8 if kind == 'png' else np.uint16)
            for i, mask in zip(f.instances.track_ids, f.instances.masks):
                ids[mask.full(HEIGHT, WIDTH)] = i if kind == 'png' else 300 + i
            if kind == 'png':
                ids[-2:] = 255  # void
            image = Image.fromarray(ids)
            if kind == 'png':
                image.putpalette(np.arange(768, dtype=np.uint8).tobytes())
            image.save(path / f.source.replace('jpg', 'png'))
    return path


@pytest.mark.parametrize('kind', ['tracks', 'tao', 'youtube_vis', 'scalabel'])
def test_every_format_says_the_same(crowd, kind, tmp_path):
    found, truth = crowd
    video = 'crowd' if kind in ('tao', 'youtube_vis') else ''
    read = read_truth(written(truth, kind, tmp_path), found, video)
    assert evaluate(found, read) == evaluate(found, truth)
    assert read[0].class_names == {'tao': {5: 'car'}, 'scalabel': {0: 'car'}}.get(kind, {})


@pytest.mark.parametrize('kind', ['png', 'png16'])
def test_id_images_say_the_same_where_nothing_overlaps(kind, tmp_path):
    truth = frames(*[objects((1, 10 + t, 20), (2, 80, 60 - t)) for t in range(5)])
    found = frames(*[objects((8, 12 + t, 20), (9, 80, 60 - t)) for t in range(5)])
    read = read_truth(written(truth, kind, tmp_path), found)
    assert evaluate(found, read) == evaluate(found, truth)


def test_only_labelled_frames_count(crowd, tmp_path):
    found, truth = crowd
    path = written(truth[::5], 'tao', tmp_path)
    assert evaluate(found, read_truth(path, found, 'crowd')).frames == 6


@pytest.mark.parametrize(
    'name, text, words',
    [
        ('gt.txt', '1,2,3\n', 'line 1: .* fewer than 6'),
        ('gt.txt', '1,1,0,0,5,5\n1,nan,0,0,5,5\n', 'line 2: .* id is nan'),
        ('gt.txt', '1,inf,0,0,5,5\n', 'id is inf'),
        ('gt.txt', '1,1,0,0,-5,5\n', 'has no area'),
        ('gt.txt', '1,1,0,0,1e300,5\n', '1e.300 for a number of pixels'),
        ('gt.txt', '1,1,0,0,5,5,1,inf\n', 'class is inf'),
        ('gt.txt', '1,1,0,0,5,5,0\n', 'labels nothing'),
        ('gt.txt', '1,1,0,0,5,5,1\n1,1,9,9,5,5,1\n', 'id 1 twice'),
        ('gt.json', '{', 'no json'),
        ('gt.json', '{"a": 1}', 'none of'),
        ('gt.json', '[' * 100_000, 'nested too deeply'),
        ('gt.json', '{"annotations": [{}], "images": [{"id": 1, "frame_id": 0}]}',
         'annotation 0: image_id is None'),
        ('gt.json', '{"annotations": [], "images": [{"id": [], "frame_id": 0}]}',
         r'image 0: id is \[\]'),
        ('gt.json', '[{"name": "00000", "labels": [{"id": 1}]}]',
         'frame 0, label 0: category is None'),
        ('gt.json', '[{"name": "00000", "frameIndex": true}]', 'frame 0: frameIndex is True'),
        ('gt.json', '[{"name": "else", "frameIndex": 77, "labels": []}]', 'labels none of'),
    ],
)  # fmt: skip
def test_bad_truth_is_named(name, text, words, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(SourceError, match=words):
        read_truth(tmp_path / name, frames(objects((1, 10, 10))))


@pytest.mark.parametrize(
    'shape, words',
    [
        ({'segmentation': [[1, 1, 9, 1, 9]]}, 'is no polygon'),
        ({'segmentation': [[1, 1, 9, 1, 9, float('nan')]]}, 'corner at nan'),
        ({'segmentation': [[1, 1, 9, 1, 9, 1e9]]}, 'corner at 1000000000'),
        ({'segmentation': [None]}, 'None is no polygon'),
        ({'segmentation': {'size': [7, 5], 'counts': [35]}}, '5 x 7 pixels in an image of 160'),
        ({'segmentation': {'size': [HEIGHT, WIDTH], 'counts': [3]}}, 'add up to 3'),
        ({'segmentation': {'size': [HEIGHT, WIDTH], 'counts': 'o' * 500}}, 'no compressed'),
        ({'segmentation': {'size': [HEIGHT, WIDTH]}}, 'of the type NoneType'),
        ({'segmentation': 5}, '5 is no mask'),
        ({'bbox': [1, 2, 3]}, 'no box of left'),
        ({'bbox': [1, 2, True, 4]}, 'True for a number'),
        ({'bbox': [1, 2, 10**400, 4]}, 'for a number of pixels'),
        ({'bbox': [1, 2, 0, 4]}, 'has no area'),
        ({}, 'neither a box'),
        ({'bbox': [1, 2, 3, 4], 'track_id': 1 << 64}, 'track_id is .* too large'),
        ({'bbox': [1, 2, 3, 4], 'track_id': 1.5}, 'track_id is 1.5'),
        ({'bbox': [1, 2, 3, 4], 'category_id': 1 << 40}, 'category_id is'),
    ],
)
def test_the_damaged_annotation_is_named(shape, words, tmp_path):
    good = {'image_id': 1, 'track_id': 1, 'bbox': [1, 2, 3, 4]}
    document = {
        'images': [{'id': 1, 'frame_id': 0}],
        'annotations': [good, {'image_id': 1, 'track_id': 2, **shape}],
    }
    (tmp_path / 'gt.json').write_text(json.dumps(document))
    with pytest.raises(SourceError, match=f'gt.json, annotation 1: .*{words}'):
        read_truth(tmp_path / 'gt.json', frames(objects((1, 10, 10))))


def test_where_an_object_is_hidden_its_mask_may_be_empty(tmp_path):
    empty = {'size': [HEIGHT, WIDTH], 'counts': [HEIGHT * WIDTH]}
    square = [[10, 10, 30, 10, 30, 30, 10, 30]]
    item = {'id': 1, 'segmentations': [square, empty, None]}
    (tmp_path / 'gt.json').write_text(json.dumps({'annotations': [item]}))
    truth = read_truth(tmp_path / 'gt.json', frames(*[objects((1, 10, 10))] * 3))
    assert [len(frame.instances) for frame in truth] == [1, 0, 0]
    np.testing.assert_allclose(truth[0].instances.boxes[0], (10, 10, 30, 30), atol=1)


@pytest.mark.parametrize(
    'change, words',
    [
        (lambda frame: {'index': 0}, 'frame 0: it is there twice'),
        (lambda frame: {'height': 0}, '160 x 0 pixels'),
        (lambda frame: {'height': 1 << 20}, '160 x 1048576 pixels'),
        (lambda frame: {'height': 25}, '160 x 25 pixels'),
        (lambda frame: {'instances': [frame['instances'][0]] * 2}, 'id 1 is there twice'),
        (lambda frame: {'instances': [frame['instances'][0] | {'box': [0, 0, -1, 1]}]}, 'area'),
        (lambda frame: {'instances': [frame['instances'][0] | {'score': float('nan')}]}, 'finite'),
    ],
)
def test_tracks_that_cannot_be_compared_are_named(change, words, tmp_path, capsys):
    truth = frames(objects((1, 10, 10)), objects((1, 10, 10)))
    write_tracks(tmp_path / 'good.json', 'test', truth)
    document = json.loads((tmp_path / 'good.json').read_text())
    document['frames'][1] |= change(document['frames'][1])
    (tmp_path / 'bad.json').write_text(json.dumps(document))
    with pytest.raises(SourceError, match=f'bad.json.*{words}'):
        read_truth(tmp_path / 'bad.json', truth)
    arguments = [tmp_path / 'bad.json', '--ground-truth', tmp_path / 'good.json']
    assert cli.main(['evaluate', *map(str, arguments)]) == 2
    assert re.search(words, capsys.readouterr().err)


def test_a_file_of_several_videos_asks_which(crowd, tmp_path):
    found, truth = crowd
    path = written(truth, 'tao', tmp_path)
    with pytest.raises(SourceError, match='--video; there are: val/crowd, val/other'):
        read_truth(path, found)
    with pytest.raises(SourceError, match="no video 'street'"):
        read_truth(path, found, 'street')


def test_id_images_of_another_size_or_in_colour_are_named(tmp_path):
    found = frames(objects((1, 10, 10)))
    with pytest.raises(SourceError, match='without PNG'):
        read_truth(tmp_path, found)
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(tmp_path / '0.png')
    with pytest.raises(SourceError, match='7 x 5'):
        read_truth(tmp_path, found)
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / '0.png')
    with pytest.raises(SourceError, match='colours'):
        read_truth(tmp_path, found)


def observed(truth, tracks, overlap):
    """A frame from (id, label) rows of both sides."""
    t, k = np.array(truth).reshape(-1, 2), np.array(tracks).reshape(-1, 2)
    values = np.array(overlap, float).reshape(len(t), len(k))
    return Observed(t[:, 0], t[:, 1].astype(np.int32), k[:, 0], k[:, 1].astype(np.int32), values)


def test_teta_of_a_hand_computed_sequence():
    # Object 1 (class 0) is track 11 in both frames, once called class 1; overlaps 1 and 0.72.
    # Object 2 (class 1) is found in the first frame only, by 12, with overlap 1. Track 13 lies
    # where nothing is labelled and costs nothing; 14 doubles object 1 with overlap 0.6 once.
    sequence = [
        observed(
            [(1, 0), (2, 1)],
            [(11, 0), (12, 1), (13, 0), (14, 0)],
            [[1, 0, 0, 0.6], [0, 1, 0, 0]],
        ),
        observed([(1, 0), (2, 1)], [(11, 1), (13, 0)], [[0.72, 0], [0, 0]]),
    ]
    result = teta(sequence)
    # LocA, class 0: up to alpha 0.70 (15 of 20 thresholds) both frames hit, 14 is extra: 2/3;
    # beyond it one hit, one miss, 14 extra and 11 of the second frame too: 1/4.
    # Class 1: one hit, one miss: 1/2.
    assert result.loca == pytest.approx(((15 * 2 / 3 + 5 * 1 / 4) / 20 + 1 / 2) / 2)
    # AssocA, class 0: 11 is there twice: 2 of 2 + 2 - 2 -> 1; beyond 0.70: 1 of 2 + 2 - 1 -> 1/3.
    # Class 1: 1 of 2 + 1 - 1 -> 1/2.
    assert result.assoca == pytest.approx(((15 + 5 * 1 / 3) / 20 + 1 / 2) / 2)
    # ClsA over alpha 0.50 .. 0.95. Class 0: up to 0.70 one right, one wrong: 1/2, then 1.
    # Class 1: one right; the wrong one of class 0 was called 1: 1/2 up to 0.70, then 1.
    assert result.clsa == pytest.approx((5 * 1 / 2 + 5 * 1) / 10)
    assert result.teta == pytest.approx((result.loca + result.assoca + result.clsa) / 3)


def test_teta_without_classes_has_two_parts():
    result = teta([observed([(1, -1)], [(5, -1)], [[0.97]])])
    assert (result.loca, result.assoca) == (1, 1)
    assert result.clsa is None and result.teta is None


def test_masks_and_whole_tracks_are_scored():
    truth = frames(*[objects((1, 10 + t, 20), (2, 90, 60)) for t in range(10)])
    perfect = evaluate(truth, truth)
    assert (perfect.jf, perfect.track_ap, perfect.ar100) == (1, 1, 1)
    # One of two objects found: half of the recall; a whole false track costs precision.
    half = evaluate(frames(*[objects((1, 10 + t, 20), (7, 40, 90)) for t in range(10)]), truth)
    assert half.ar100 == pytest.approx(0.5)
    assert half.j == pytest.approx(0.5)
    assert half.track_ap == pytest.approx(0.5, abs=0.01)
    # An object that changes its id after 6 of 10 frames is covered 60 % by the better track.
    split = frames(*[objects((1 if t < 6 else 5, 10 + t, 20), (2, 90, 60)) for t in range(10)])
    assert evaluate(split, truth).ar100 == pytest.approx((1 + 3 / 10) / 2)


def test_presence_counts_frames_without_a_mask():
    truth = frames(*[objects((1, 10, 20), (2, 90, 60)) for _ in range(6)])
    found = frames(
        objects(), objects((5, 10, 20)), objects((6, 14, 20)), objects((6, 17, 20)),
        objects((5, 10, 20)), objects(),
    )  # fmt: skip
    # Object 1 is covered in frames 1, 2 (IoU 2/3) and 4; 7 pixels off (IoU 0.48) are too many.
    # Object 2 never is, so that it has no gaps.
    assert presence(found, truth) == Presence(12, pytest.approx(9 / 12), pytest.approx(1 / 4))
    assert presence(found, truth, 0.4) == Presence(12, pytest.approx(8 / 12), 0)
    # By boxes of the masks, as the truth is: the same; frames that were not tracked do not count.
    assert presence(found, without_masks(truth)) == presence(found, truth)
    assert presence(found[1:], truth) == Presence(10, pytest.approx(7 / 10), pytest.approx(1 / 4))
    assert presence(truth, truth) == Presence(12, 0, 0)
    assert presence([], truth) == Presence(0, 0, 0)


def test_presence_needs_published_masks():
    truth = frames(*[objects((1, 10, 20))] * 2)
    one, two = objects((1, 10, 20)), objects((1, 10, 20))
    lost = dataclasses.replace(two, states=np.full(1, TrackState.LOST, np.uint8))
    assert presence(frames(one, lost), truth) == Presence(2, 0.5, 0)
    assert presence(without_masks(truth), truth) == Presence(2, 1, 0)
    # The mask counts, not the box that is said.
    off = dataclasses.replace(one, boxes=one.boxes + 50)
    assert presence(frames(off, one), without_masks(truth)) == Presence(2, 0, 0)
    empty = dataclasses.replace(one, masks=(Mask(0, 0, np.zeros((0, 0), bool)),))
    assert presence(frames(empty, one), truth) == Presence(2, 0.5, 0)


def test_timelines_tell_misses_switches_and_extra_tracks():
    truth = frames(*[objects((1, 10, 20)) for _ in range(6)])
    found = frames(
        objects((5, 10, 20)), objects((5, 10, 20), (9, 90, 60)), objects(),
        objects((6, 11, 20), (5, 14, 20)), objects((6, 10, 20)), objects((6, 10, 20)),
    )  # fmt: skip
    lines = timelines(pair(found, truth)[0])
    # In frame 3 the old track still overlaps enough: it goes on standing for the object.
    assert lines.objects[1].tolist() == [5, 5, 0, 5, 6, 6]
    assert [tuple(s) for s in lines.switches] == [(1, 4, 5, 6)]
    assert lines.extra[9].tolist() == [False, True] + [False] * 4


def test_the_page_stands_alone(crowd):
    found, truth = crowd
    pairs, _ = pair(found, truth)
    images = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    text = page(pairs, evaluate(found, truth), [None] + [images] * 29, 'a <b> & c')
    assert 'a &lt;b&gt; &amp; c' in text
    assert not re.search(r'(src|href)="(?!data:)', text)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert len(data['pictures']) == 30
    assert len(data['switches']) == text.count('class="switch"') > 0
    # One timeline for each of the six objects, and for each track that ever stood for none.
    heads = re.findall(r'<span title="[^"]*">([^<]*)</span>', text)
    assert [head for head in heads if head.startswith('object')] == [
        f'object {i}' for i in range(1, 7)
    ]
    assert {head.split(',')[0] for head in heads if 'no object' in head} >= {'track 40'}


def test_the_page_names_classes():
    found = frames(objects((5, 10, 20, 3), (6, 90, 60, 4)), objects((5, 10, 20, 3)))
    truth = frames(objects((1, 10, 20, 0)), objects((1, 10, 20, 0)))
    found = [dataclasses.replace(f, class_names={3: 'cup', 4: '<b>'}) for f in found]
    truth = [dataclasses.replace(f, class_names={0: 'mug'}) for f in truth]
    text = page(pair(found, truth)[0], evaluate(found, truth), [], 'names')
    assert '>object 1 mug<' in text
    assert '<title>track 5 cup</title>' in text
    assert '>track 6 &lt;b&gt;, no object<' in text


def test_evaluate_writes_figures_and_page(crowd, tmp_path, capsys):
    found, truth = crowd
    write_tracks(tmp_path / 'tracks.json', 'test', found)
    path = written(truth, 'tao', tmp_path)
    arguments = ['evaluate', tmp_path / 'tracks.json', '--ground-truth', path, '--video', 'crowd']
    arguments += ['--output', tmp_path / 'scores.json', '--page', tmp_path / 'page.html']
    assert cli.main([str(a) for a in arguments]) == 0
    assert 'hota' in capsys.readouterr().out
    scores = json.loads((tmp_path / 'scores.json').read_text())
    assert scores['hota'] == evaluate(found, truth).hota
    assert (tmp_path / 'page.html').stat().st_size > 10_000
