# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Foreign labels: whatever stands in a file of truth, detections or masks is used or refused."""

import contextlib
import copy
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_fuzz import JSON, damage, damaged, fuzz, places

from masa_ros.errors import SourceError
from masa_ros.evaluation.metrics import evaluate
from masa_ros.evaluation.truth import check_tracks, read_truth
from masa_ros.masks import coco_rle, mask_from_coco_rle, pixels_from_coco
from masa_ros.recordings.detections import read_detections
from masa_ros.recordings.tracks_file import TrackedFrame, read_tracks, write_tracks
from masa_ros.training.proposals import read_proposals
from masa_ros.types import Instances, Mask, TrackState

HEIGHT, WIDTH = 20, 30
WINDOW = Mask(2, 3, np.ones((8, 9), bool))
RLE = coco_rle(WINDOW, HEIGHT, WIDTH)
RUNS = {'size': [HEIGHT, WIDTH], 'counts': [43, 8, HEIGHT * WIDTH - 51]}
POLYGON = [[2.0, 3.0, 11.0, 3.0, 11.0, 11.0, 2.0, 11.0]]
BOX = [2.0, 3.0, 9.0, 8.0]


def tracked():
    one = Instances(
        np.array([(2, 3, 11, 11)], np.float32),
        masks=(WINDOW,),
        track_ids=np.array([4]),
        states=np.array([TrackState.TRACKED], np.uint8),
    )
    return [TrackedFrame(i, f'{i:03d}.png', i * 10**8, HEIGHT, WIDTH, one) for i in range(3)]


FOUND = tracked()
IMAGES = [
    {'id': 7 + i, 'video_id': 1, 'frame_index': i, 'file_name': f'{i:03d}.png',
     'height': HEIGHT, 'width': WIDTH}
    for i in range(3)
]  # fmt: skip
ANNOTATIONS = [
    {'id': i, 'image_id': 7 + i, 'track_id': 1, 'bbox': BOX, 'segmentation': shape,
     'category_id': 3, 'iscrowd': 0}
    for i, shape in enumerate((RLE, RUNS, POLYGON))
]  # fmt: skip
DOCUMENTS = {
    'tao': {
        'videos': [{'id': 1, 'name': 'a'}],
        'images': IMAGES,
        'annotations': ANNOTATIONS,
        'categories': [{'id': 3, 'name': 'cup'}],
    },
    'youtube_vis': {
        'videos': [{'id': 1, 'name': 'a'}],
        'annotations': [
            {'id': 5, 'video_id': 1, 'category_id': 1,
             'segmentations': [RLE, None, POLYGON], 'bboxes': [BOX, None, BOX]}
        ],
    },
    'scalabel': [
        {'name': f'{i:03d}.png', 'videoName': 'a', 'frameIndex': i, 'labels': [
            {'id': 'x', 'category': 'cup', 'rle': RLE, 'attributes': {'crowd': False},
             'box2d': {'x1': 2.0, 'y1': 3.0, 'x2': 11.0, 'y2': 11.0}}]}
        for i in range(3)
    ],
}  # fmt: skip

WILD = (
    JSON
    | st.sampled_from((math.nan, math.inf, -1, 0, True, 1e300, 10**400, 2**63, -(2**31) - 1))
    | st.sampled_from((BOX, POLYGON, RLE, RUNS, [], {}, '', 'o' * 90, [[math.nan] * 6]))
)


def changed(data, document):
    """The document with other values, or without some, in a few places."""
    document = copy.deepcopy(document)
    for _ in range(data.draw(st.integers(1, 3))):
        inner = sorted(filter(None, places(document)), key=str)
        path = data.draw(st.sampled_from(inner or [(0,)]))
        inside = document
        for key in path[:-1]:
            inside = inside[key]
        if not inside:
            return document
        if data.draw(st.integers(0, 4)):
            inside[path[-1]] = copy.deepcopy(data.draw(WILD))
        else:
            del inside[path[-1]]
    return document


def score(path):
    """Read truth and compare it, as the command does."""
    try:
        truth = read_truth(path, FOUND)
    except SourceError as error:
        assert str(path.name) in str(error)
        return
    evaluate(FOUND, truth)


@pytest.mark.parametrize('kind', DOCUMENTS)
def test_the_documents_are_good_before_they_are_changed(kind, tmp_path):
    (tmp_path / 'gt.json').write_text(json.dumps(DOCUMENTS[kind]))
    assert evaluate(FOUND, read_truth(tmp_path / 'gt.json', FOUND)).hota > 0.5


@pytest.mark.parametrize('kind', DOCUMENTS)
@settings(fuzz, max_examples=100)
@given(data=st.data())
def test_truth_with_other_values(kind, tmp_path, data):
    document = changed(data, DOCUMENTS[kind])
    (tmp_path / 'gt.json').write_text(json.dumps(document))
    score(tmp_path / 'gt.json')


@fuzz
@given(st.data())
def test_tracks_with_other_values(tmp_path, data):
    write_tracks(tmp_path / 'good.json', 'test', FOUND)
    document = changed(data, json.loads((tmp_path / 'good.json').read_text()))
    (tmp_path / 'gt.json').write_text(json.dumps(document))
    score(tmp_path / 'gt.json')
    try:
        found = read_tracks(tmp_path / 'gt.json')
        check_tracks(tmp_path / 'gt.json', found)
        evaluate(found, FOUND)
    except SourceError:
        return


@fuzz
@given(st.data())
def test_lines_with_other_values(tmp_path, data):
    rows = [['1', '1', '2', '3', '9', '8', '1', '1', '1'] for _ in range(3)]
    words = ('nan', 'inf', '-1', '0', '1e300', '1e9', '2', '1.5', 'x', '', '9' * 40, '\x00', '-0')
    for _ in range(data.draw(st.integers(1, 3))):
        row = data.draw(st.sampled_from(rows))
        row[data.draw(st.integers(0, 8))] = data.draw(st.sampled_from(words))
    path = tmp_path / 'gt.txt'
    path.write_text('\n'.join(','.join(row) for row in rows))
    score(path)
    try:
        read_detections(path)
    except SourceError as error:
        assert 'gt.txt' in str(error)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('png')
    for frame in FOUND:
        ids = WINDOW.full(HEIGHT, WIDTH).astype(np.uint8)
        Image.fromarray(ids).save(folder / frame.source)
    return folder


@fuzz
@given(st.data())
def test_damaged_bytes(folder, data):
    file = folder / '001.png'
    whole = file.read_bytes()
    try:
        file.write_bytes(damaged(whole, data.draw(damage(len(whole)))))
        try:
            truth = read_truth(folder, FOUND)
        except SourceError as error:
            assert '001.png' in str(error)
        else:
            evaluate(FOUND, truth)
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize('kind', DOCUMENTS)
@settings(fuzz, max_examples=30)
@given(data=st.data())
def test_documents_that_break_off(kind, tmp_path, data):
    whole = json.dumps(DOCUMENTS[kind]).encode()
    (tmp_path / 'gt.json').write_bytes(damaged(whole, data.draw(damage(len(whole)))))
    score(tmp_path / 'gt.json')


@fuzz
@given(st.data())
def test_detections_with_other_values(tmp_path, data):
    document = changed(data, DOCUMENTS['tao'])
    (tmp_path / 'found.json').write_text(json.dumps(document))
    try:
        read_detections(tmp_path / 'found.json')
    except SourceError as error:
        assert 'found.json' in str(error)


@fuzz
@given(st.data())
def test_proposals_with_other_values(folder, tmp_path, data):
    document = changed(data, DOCUMENTS['tao'])
    (tmp_path / 'masks.json').write_text(json.dumps(document))
    try:
        entries = read_proposals(tmp_path / 'masks.json', folder)
    except SourceError as error:
        assert 'masks.json' in str(error)
        return
    for entry in entries:
        with contextlib.suppress(ValueError):
            masks = entry.decode(HEIGHT, WIDTH)
            assert masks.shape == (len(entry.shapes), HEIGHT, WIDTH)


@settings(fuzz, max_examples=400)
@given(st.data())
def test_masks_with_other_values(data):
    shape = changed(data, [data.draw(st.sampled_from((RLE, RUNS, POLYGON)))])[:1]
    for read in (mask_from_coco_rle, lambda shape: pixels_from_coco(shape, HEIGHT, WIDTH)):
        with contextlib.suppress(ValueError):
            read(*shape or [None])


@fuzz
@given(st.text(max_size=12) | st.text('0123456789OPno`', max_size=30) | st.binary(max_size=12))
def test_any_compressed_run_lengths(counts):
    try:
        mask_from_coco_rle({'size': [HEIGHT, WIDTH], 'counts': counts})
    except ValueError as error:
        assert 'mask' in str(error)


@pytest.mark.parametrize(
    'rle',
    [
        None,
        [],
        {},
        {'size': [8, 8]},
        {'counts': [64]},
        {'size': 8, 'counts': [64]},
        {'size': [8], 'counts': [64]},
        {'size': ['8', 8], 'counts': [64]},
        {'size': [True, 8], 'counts': [8]},
        {'size': [8.0, math.inf], 'counts': [64]},
        {'size': [8, math.nan], 'counts': [64]},
        {'size': [8, 8], 'counts': None},
        {'size': [8, 8], 'counts': 64},
        {'size': [8, 8], 'counts': {}},
        {'size': [8, 8], 'counts': [math.inf]},
        {'size': [8, 8], 'counts': [63.5]},
        {'size': [8, 8], 'counts': [None]},
        {'size': [8, 8], 'counts': [[64]]},
        {'size': [8, 8], 'counts': [10**30]},
        {'size': [8, 8], 'counts': [2**62] * 4 + [64]},  # adds up in 64 bits
        {'size': [8, 8], 'counts': 'é'},
        {'size': [8, 8], 'counts': 'o' * 5000},
        {'size': [8, 8], 'counts': '0' * 30},
        {'size': [8, 8], 'counts': 'P'},
    ],
)
def test_what_is_no_mask_is_refused(rle):
    with pytest.raises(ValueError, match='mask'):
        mask_from_coco_rle(rle)
