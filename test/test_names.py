# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Names of classes in files and pictures: the same text everywhere."""

import json

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from masa_ros import overlay
from masa_ros.recordings.bags import typestore
from masa_ros.recordings.recorder import Recorder
from masa_ros.recordings.tracks_file import read_tracks
from masa_ros.streams.classes import ClassNames
from masa_ros.types import Frame, Instances, Mask, Result, TrackState, class_name

NAMES = {0: 'cup', -5: 'below', 70000: 'beyond'}
LABELS = (0, 3, -1, -5, 70000)
TEXTS = ['cup', '3', '', 'below', 'beyond']


def tracks(labels=LABELS, names=NAMES, size=(240, 320)):
    """One track for each label, as a result of an image of this size."""
    count = len(labels)
    corner = 20 * np.arange(count, dtype=np.float32)[:, None]
    found = Instances(
        boxes=np.hstack((corner + 5, corner + 20, corner + 45, corner + 60)),
        scores=np.full(count, 0.75, np.float32),
        labels=np.array(labels, np.int32),
        track_ids=np.arange(1, count + 1),
        states=np.full(count, TrackState.TRACKED, np.uint8),
    )
    return Result(Frame(np.full((*size, 3), 90, np.uint8), 1_000_000_000), found, names)


def test_a_class_is_called_by_its_name_or_its_number():
    assert [class_name(label, NAMES) for label in LABELS] == TEXTS


def test_files_have_the_names_and_give_them_back(tmp_path):
    with Recorder(tmp_path, 'masa_nano', 10.0, video=False) as recorder:
        recorder.add(0, '0.png', tracks())
    document = json.loads((tmp_path / 'tracks.json').read_text())
    (frame,) = document['frames']
    assert [i['class_name'] for i in frame['instances']] == TEXTS
    assert [i['class_id'] for i in frame['instances']] == list(LABELS)
    with AnyReader([tmp_path / 'tracks.mcap'], default_typestore=typestore()) as reader:
        ((connection, _, raw),) = reader.messages()
        message = reader.deserialize(raw, connection.msgtype)
    assert [i.class_name for i in message.instances] == TEXTS
    (again,) = read_tracks(tmp_path / 'tracks.json')
    assert [class_name(label, again.class_names) for label in LABELS] == TEXTS


@pytest.mark.parametrize(
    'change', [lambda i: i.update(class_name=''), lambda i: i.pop('class_name')]
)
def test_files_without_names_are_read(tmp_path, change):
    """Versions before wrote '' for a number; other programs may write nothing."""
    with Recorder(tmp_path, 'masa_nano', 10.0, video=False) as recorder:
        recorder.add(0, '0.png', tracks())
    document = json.loads((tmp_path / 'tracks.json').read_text())
    for instance in document['frames'][0]['instances']:
        change(instance)
    (tmp_path / 'tracks.json').write_text(json.dumps(document))
    (frame,) = read_tracks(tmp_path / 'tracks.json')
    assert frame.class_names == {}
    assert frame.instances.labels.tolist() == list(LABELS)


@pytest.mark.parametrize('text', ['cup', '3', '007', '٣', '0', '999999999', '1234567890', '3.0'])
def test_the_class_of_a_detector_comes_out_as_it_went_in(text):
    classes = ClassNames()
    labels = [classes.label(each) for each in ('first', text, '7')]
    names = [class_name(label, classes.names) for label in labels]
    assert names == ['first', text, '7']
    assert len(set(labels)) == 3


@pytest.mark.parametrize(
    'name, text',
    [
        *(('cup', '1 cup 0.75'), ('', '1 class 0 0.75'), ('3', '1 class 3 0.75')),
        ('a\nlong  name\tof more than thirty', '1 a long name of more th.. 0.75'),
    ],
)
def test_captions_are_one_short_line(name, text):
    result = tracks([0], {0: name})
    assert overlay.caption(result.tracks, 0, result.class_names) == text
    result.tracks.labels[:] = -1
    assert overlay.caption(result.tracks, 0, {}) == '1 0.75'


@pytest.mark.parametrize('size', [(120, 160), (480, 640), (1080, 1920)])
def test_labels_stay_whole_in_the_picture(size):
    """The ink of a text is as much at the edges as in the middle; nothing else is dark."""
    height, width = size

    def ink(x, y, label):
        result = tracks([label], {0: 'red cup'}, size)
        boxes = np.array([(x - 4, y - 4, x + 4, y + 4)], np.float32)
        found = Instances(boxes, track_ids=np.array([2]), labels=result.tracks.labels)
        found.states[:] = TrackState.TRACKED
        drawn = overlay.draw(result.frame.image, found, result.class_names)
        return int((drawn.max(axis=2) < 60).sum())

    assert sum(overlay.colour_of(2)) > 380, 'the ink is black'
    middle = ink(width // 2, height // 2, 0)
    assert middle > ink(width // 2, height // 2, -1) > 0, 'the name is there'
    for x in (4, width // 2, width - 4):
        for y in (4, height // 2, height - 4):
            assert ink(x, y, 0) == middle, (x, y)


@pytest.mark.parametrize('size', [(40, 50), (20, 20), (8, 8)])
def test_tiny_pictures_get_what_fits(size):
    result = tracks([0], {0: 'a name that does not fit'}, size)
    named = overlay.draw(result.frame.image, result.tracks, result.class_names)
    assert named.shape == (*size, 3)
    if size[1] == 50:
        same = overlay.draw(result.frame.image, result.tracks, {0: 'another that does not fit'})
        assert (named == same).all(), 'only the id is there'
        assert (named != result.frame.image).any()


def test_other_scripts_are_drawn_or_replaced():
    result = tracks([0], {0: 'Tür'})
    plain = tracks([0], {0: 'Tur'})
    first, second = (overlay.draw(r.frame.image, r.tracks, r.class_names) for r in (result, plain))
    assert (first != second).any()
    # As wide as one letter more or less, not as two question marks for every letter.
    wide = [np.flatnonzero((d != 90).any(axis=(0, 2)))[-1] for d in (first, second)]
    assert abs(int(wide[0]) - int(wide[1])) < 8


# Outlines for viewers


def disc(state=TrackState.TRACKED):
    """A track with a round mask in its box of 60 x 60 pixels at (30, 40)."""
    pixels = np.zeros((60, 60), np.uint8)
    cv2.circle(pixels, (29, 29), 29, 1, -1)
    result = tracks([0])
    result.tracks.states[:] = state
    result.tracks.boxes[:] = (30, 40, 90, 100)
    return Instances(
        result.tracks.boxes,
        masks=(Mask(30, 40, pixels.astype(bool)),),
        track_ids=result.tracks.track_ids,
        states=result.tracks.states,
    )


def test_an_outline_is_that_of_the_mask():
    found = disc()
    (outline,) = overlay.outlines(found, 0)
    assert 8 <= len(outline) <= 40, 'simplified'
    again = np.zeros((120, 120), np.uint8)
    cv2.fillPoly(again, [np.floor(outline).astype(np.int32)], 1)
    truth = found.masks[0].full(120, 120)
    assert (truth & (again > 0)).sum() / (truth | (again > 0)).sum() > 0.96
    assert (outline > (30, 40)).all() and (outline < (90, 100)).all()


def test_two_parts_have_two_outlines_and_dots_none():
    pixels = np.zeros((20, 40), bool)
    pixels[2:12, 2:12] = pixels[2:12, 20:35] = pixels[15, 15] = True
    found = Instances(np.array([(0, 0, 40, 20)], np.float32), masks=(Mask(0, 0, pixels),))
    assert len(overlay.outlines(found, 0)) == 2
    found.masks[0].pixels[:12] = False
    (box,) = overlay.outlines(found, 0)
    assert box.tolist() == [[0, 0], [40, 0], [40, 20], [0, 20]]


@pytest.mark.parametrize(
    'found', [tracks([0]).tracks, disc(TrackState.LOST)], ids=['without a mask', 'lost']
)
def test_else_it_is_the_box(found):
    (outline,) = overlay.outlines(found, 0)
    x0, y0, x1, y1 = found.boxes[0]
    assert outline.tolist() == [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
