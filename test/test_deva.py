# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""DEVA as a method: what is found, deleted and answered, with masks that a rule carries on."""

import contextlib
import dataclasses
import random

import numpy as np
import pytest
from conftest import scene
from moving import STEP, Moving

from masa_ros import options
from masa_ros.detectors import DETECTORS
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.detectors.prompted import Candidate
from masa_ros.errors import ConfigError, PromptError
from masa_ros.masks import crop
from masa_ros.methods.deva import Deva, DevaConfig
from masa_ros.methods.deva.merging import Rules
from masa_ros.streams.stream import Stream
from masa_ros.types import Frame, Instances, Mask, Prompt, TrackState

SIZE = (60, 80)


class Scripted:
    """A detector that finds in a frame what it is told to, and knows two classes."""

    takes_words, class_names = False, {0: 'cup', 1: 'hat'}

    def __init__(self, find=lambda stamp: ()):
        self.find, self.asked = find, []

    def detect(self, frames, words=()):
        self.asked += [frame.stamp_ns for frame in frames]
        return [instances(self.find(frame.stamp_ns), frame.shape) for frame in frames]

    def facts(self):
        return {'model': 'scripted'}


def block(x, y, width, height, shape=SIZE):
    full = np.zeros(shape, bool)
    full[y : y + height, max(x, 0) : max(x + width, 0)] = True
    return crop(full)


def instances(found, shape=SIZE):
    """Detections of (x, y, width, height, score, label)."""
    masks = [block(*item[:4], shape) for item in found]
    return Instances(
        np.array([(m.x, m.y, m.x + m.width, m.y + m.height) for m in masks], np.float32).reshape(
            -1, 4
        ),
        np.array([item[4] for item in found], np.float32),
        np.array([item[5] for item in found], np.int32),
        masks=tuple(masks),
    )


def moving(*objects, without=()):
    """What a perfect detector finds of objects (x, y, width, height) that all move."""

    def find(t):
        return [] if t in without else [(x + STEP * t, *rest, 0.8, 0) for x, *rest in objects]

    return find


def frame(t, shape=SIZE):
    return Frame(np.zeros((*shape, 3), np.uint8), t)


class Pointed:
    """A segmenter that answers clicks with a block around the first one, and masks with them."""

    def segment(self, frame, prompt):
        if prompt.mask is not None:
            return [Candidate(prompt.mask, 1.0)]
        x, y = prompt.points[0].astype(int)
        return [Candidate(block(x - 5, y - 5, 10, 10, frame.shape), 0.9)]


def deva(find=lambda stamp: (), **values):
    config = dataclasses.replace(DevaConfig(), **values)
    return Deva(Scripted(find), Moving(), config, segmenter=Pointed())


def click(x, y, track_id=0, positive=True):
    return Prompt(0, track_id, np.array([(x, y)], np.float32), np.array([positive]))


def ask(session, t, prompt, shape=SIZE):
    """Point at something in frame t; returns id and box."""
    image = frame(t, shape)
    tracks = session.prompt(image, image, dataclasses.replace(prompt, stamp_ns=t))
    return tracks.track_ids.tolist(), tracks.boxes.tolist()


def run(session, stamps, given=None, shape=SIZE):
    """Show frames; returns the results, with those of the frames that were still open."""
    results = []
    for t in stamps:
        image = frame(t, shape)
        results += session.update(image, image, given and instances(given(t), shape))
    return [*results, *session.finish()]


def ids(results):
    return [result.tracks.track_ids.tolist() for result in results]


def full(masks, shape=SIZE):
    return np.array([mask.full(*shape) for mask in masks], bool).reshape(-1, *shape)


def test_objects_are_found_carried_on_and_keep_their_ids():
    method = deva(moving((5, 5, 10, 10), (30, 20, 12, 12)))
    session = method.session()
    results = run(session, range(12))
    assert method.detector.asked == [0, 5, 10]
    assert ids(results) == [[1, 2]] * 12
    for t, result in enumerate(results):
        assert result.frame.stamp_ns == t and result.class_names == {0: 'cup', 1: 'hat'}
        tracks = result.tracks
        assert tracks.boxes.dtype == np.float32
        x = 5 + 2 * t
        assert tracks.boxes[tracks.track_ids == 2].tolist() == [[x, 5, x + 10, 15]]
        assert tracks.states.tolist() == [TrackState.TRACKED] * 2
        assert tracks.first_seen_ns.tolist() == [0, 0] and tracks.labels.tolist() == [0, 0]


def test_an_object_that_left_the_image_is_not_answered_and_is_deleted_in_time():
    method = deva(moving((65, 5, 10, 10)), detection_every=2, max_missed=3)
    session = method.session()
    results = run(session, range(40))
    gone = next(t for t, each in enumerate(ids(results)) if not each)
    assert not any(ids(results)[gone:]), 'an empty mask is no track'
    assert session.figures()['objects_deleted'] == 1 and not len(session.table)


def test_an_object_that_comes_back_gets_a_new_id():
    find = moving((5, 5, 10, 10), without=range(4, 20))
    session = deva(find, detection_every=1, max_missed=1).session()
    results = ids(run(session, range(30)))
    assert results[:5] == [[1]] * 5 and results[5:20] == [[]] * 15 and results[20:] == [[2]] * 10


def test_labels_and_scores_are_voted():
    said = [(1, 0.9), (0, 0.5), (0, 0.7)]

    def find(t):
        label, score = said[t] if t < 3 else (0, 0.7)
        return [(5 + STEP * t, 5, 10, 10, score, label)]

    results = run(deva(find, detection_every=1).session(), range(3))
    assert [r.tracks.labels.tolist() for r in results] == [[1], [0], [0]]
    assert [float(r.tracks.scores[0]) for r in results] == pytest.approx([0.9, 0.7, 0.7])


def test_a_clip_is_answered_with_its_last_frame_in_order():
    method = deva(moving((5, 5, 10, 10)), clip_frames=3)
    stream = Stream(method)
    told = [[r.frame.stamp_ns for r in stream.track(frame(t))] for t in range(1, 15)]
    answered = [[], [], [1, 2, 3], [4], [5], [], [], [6, 7, 8], [9], [10], [], [], [11, 12, 13]]
    assert told == [*answered, [14]]
    assert method.detector.asked == [1, 2, 3, 6, 7, 8, 11, 12, 13]
    assert stream.finish() == []


def test_junk_of_one_frame_is_believed_at_once_or_voted_down():
    def find(t):
        junk = [(50, 40, 12, 12, 0.99, 1)] if t == 0 else []
        return [*moving((5, 5, 10, 10))(t), *junk]

    assert ids(run(deva(find).session(), range(3)))[0] == [1, 2]
    assert ids(run(deva(find, clip_frames=3).session(), range(3))) == [[1]] * 3


def test_what_the_first_frame_missed_is_brought_from_the_others():
    find = moving((5, 5, 10, 10), without=[0])
    results = run(deva(find, clip_frames=3).session(), range(3))
    assert ids(results) == [[1]] * 3
    assert results[0].tracks.boxes.tolist() == [[5, 5, 15, 15]]


@pytest.mark.parametrize('clip, asked', [(1, [14]), (3, [12, 13, 14])])
def test_looks_come_closer_at_once_when_they_are_asked_for(clip, asked):
    method = deva(moving((5, 5, 10, 10)), detection_every=1000, clip_frames=clip)
    session = method.session()
    run(session, range(10))
    method.detector.asked.clear()
    method.configure(dataclasses.replace(method.config, detection_every=5))
    run(session, range(10, 15))
    assert method.detector.asked == asked


def test_finish_answers_what_is_open():
    find = moving((5, 5, 10, 10))
    for count in (1, 2):
        results = run(deva(find, clip_frames=3).session(), range(count))
        assert ids(results) == [[1]] * count, 'a short recording has objects too'
    session = deva(find, clip_frames=3).session()
    assert ids(run(session, range(7))) == [[1]] * 7
    assert session.finish() == []
    assert ids(run(session, range(7, 30))) == [[1]] * 23, 'it may go on afterwards'


def test_reset_begins_again_with_new_ids():
    session = deva(moving((5, 5, 10, 10)), clip_frames=3).session()
    run(session, range(4))
    session.update(frame(5), frame(5))
    session.reset()
    assert session.finish() == [] and session.figures()['tracks_in_memory'] == 0
    assert ids(run(session, range(10, 13))) == [[2]] * 3


def test_a_removed_object_is_gone_and_found_as_another():
    session = deva(moving((5, 5, 10, 10), (30, 20, 12, 12))).session()
    run(session, range(3))
    assert session.remove(2) and not session.remove(2) and not session.remove(77)
    assert ids(run(session, range(3, 7))) == [[1], [1], [1, 3], [1, 3]]


@pytest.mark.parametrize('clip', [1, 3])
def test_another_size_is_the_same_view_scaled(clip):
    method = deva(moving((5, 5, 10, 10), without=[7]), clip_frames=clip)
    session = method.session()
    results = [r for t in range(7) for r in session.update(frame(t), frame(t))]
    open_ = 7 - len(results)
    later = run(session, range(7, 8), shape=(120, 160))
    results += later
    assert ids(results) == [[1]] * 8 and [r.frame.stamp_ns for r in results] == list(range(8))
    assert len(later) == 1 + open_
    (box,) = results[-1].tracks.boxes.tolist()
    assert box == [34 + STEP, 10, 54 + STEP, 30], 'as before, twice as large, moved on'
    assert method.propagator.encoded[-1].shape == (120, 160)


def test_a_session_takes_another_one_over():
    find = moving((5, 5, 10, 10))
    before = deva(find, clip_frames=3).session()
    results = [r for t in range(7) for r in before.update(frame(t), frame(t))]
    after = deva(find, clip_frames=3).session(before)
    results += run(after, range(7, 12))
    assert ids(results) == [[1]] * 12 and [r.frame.stamp_ns for r in results] == list(range(12))


def test_the_memory_of_a_device_that_failed_costs_its_frames_only():
    method = deva(moving((5, 5, 10, 10)), clip_frames=3)
    session = method.session()
    run(session, range(3))
    method.propagator.failing.append('CUDA error: gone')
    with pytest.raises(RuntimeError, match='gone'):
        session.update(frame(3), frame(3))
    assert ids(run(session, range(4, 9))) == [[1]] * 5


@pytest.mark.parametrize(
    'clip, lost', [(1, [5]), (3, [2, 3, 4, 5, 6, 7, 8])], ids=['online', 'clips']
)
def test_a_detector_that_fails_costs_its_frames_only(clip, lost):
    def find(t):
        if 2 <= t < 9:
            raise RuntimeError('CUDA error: gone')
        return moving((5, 5, 10, 10))(t)

    session = deva(find, clip_frames=clip, detection_every=5).session()
    results = []
    for t in range(12):
        with contextlib.suppress(RuntimeError):
            results += session.update(frame(t), frame(t))
        assert session.figures()['frames_open'] <= 2
    results += session.finish()
    assert [r.frame.stamp_ns for r in results] == [t for t in range(12) if t not in lost]
    assert ids(results) == [[1]] * (12 - len(lost))


@pytest.mark.parametrize('moved', [False, True])
def test_a_device_that_fails_while_an_object_begins_costs_its_frame_only(moved):
    def find(t):
        return moving((5, 5, 10, 10), *[(30, 20, 12, 12)] * (t >= 5))(t)

    session = deva(find).session()
    run(session, range(5))
    (memory,) = session._memories

    def broken(*arguments, **named):
        del memory.remember
        raise RuntimeError('CUDA error: gone')

    memory.remember = broken
    with pytest.raises(RuntimeError, match='gone'):
        session.update(frame(5), frame(5))
    if moved:
        session = deva(find).session(session)
    assert ids(run(session, range(6, 12))) == [[1]] * 4 + [[1, 3]] * 2


def test_given_detections_take_the_place_of_the_detector():
    method = deva(moving((5, 5, 10, 10)))
    session = method.session()
    given = moving((40, 20, 10, 10))
    results = run(session, range(7), given)
    assert method.detector.asked == [] and ids(results) == [[1]] * 7
    assert results[0].tracks.boxes.tolist() == [[40, 20, 50, 30]] and not results[0].class_names


def test_given_boxes_without_masks_are_filled():
    session = deva().session()
    boxes = np.array([[5.5, 5, 14.2, 15], [np.nan, 0, 9, 9], [70, 50, 200, 200]], np.float32)
    (result,) = session.update(frame(0), frame(0), Instances(boxes))
    assert sorted(result.tracks.boxes.tolist()) == [[5, 5, 15, 15], [70, 50, 80, 60]]
    assert result.tracks.labels.tolist() == [-1, -1]


def test_given_boxes_get_the_masks_that_the_detector_draws():
    detector = DETECTORS['masa'].load(DetectorConfig(), 'cpu')
    session = Deva(detector, Moving()).session()
    image = Frame(scene(), 0)
    (own,) = session.update(image, image)
    assert len(own.tracks) >= 2, 'the detector finds for itself'
    session.reset()
    boxes = np.array([[36, 46, 104, 114], [180, 110, 250, 190]], np.float32)
    (result,) = session.update(image, image, Instances(boxes))
    areas = [mask.pixels.sum() for mask in result.tracks.masks]
    assert len(areas) == 2 and min(areas) < 0.95 * 68 * 68, 'a disc does not fill its box'


def test_a_given_box_in_which_the_detector_draws_nothing_is_filled(monkeypatch):
    detector = DETECTORS['masa'].load(DetectorConfig(), 'cpu')
    nothing = Mask(0, 0, np.zeros((0, 0), bool))
    monkeypatch.setattr(
        detector, 'describe', lambda _, given: dataclasses.replace(given, masks=(nothing,))
    )
    image = Frame(scene(), 0)
    given = Instances(np.array([[36, 46, 104, 114]], np.float32))
    (result,) = Deva(detector, Moving()).session().update(image, image, given)
    assert result.tracks.boxes.tolist() == [[36, 46, 104, 114]]


def test_three_hundred_detections_at_once():
    crowd = [(4 * (i % 20), 4 * (i // 20), 3, 3, 0.5 + i / 1000, 0) for i in range(300)]
    session = deva(lambda t: crowd, max_objects=40, clip_frames=3, detection_every=4).session()
    results = run(session, range(8))
    assert len(results) == 8 and all(len(r.tracks) <= 40 for r in results)
    figures = session.figures()
    assert figures['detections_refused'] >= 260 and figures['tracks_in_memory'] <= 40


def test_minutes_without_detections():
    session = deva(moving((5, 5, 10, 10), without=range(1, 3000))).session()
    results = ids(run(session, range(0, 3000)))
    assert results[0] == [1] and results[-1] == []
    assert session.figures()['memory_bytes'] == 0
    session.method.detector.find = moving((-5980, 5, 10, 10))
    assert ids(run(session, range(3000, 3010)))[-1] == [2]


def test_dropped_frames_do_no_harm():
    stamps = [0, 1, 4, 5, 9, 10, 11, 17, 18, 19, 20]
    for clip in (1, 3):
        results = run(deva(moving((5, 5, 10, 10)), clip_frames=clip).session(), stamps)
        assert ids(results) == [[1]] * len(stamps)
        assert [r.frame.stamp_ns for r in results] == stamps


def test_a_detection_of_which_nothing_is_seen_begins_no_object():
    hidden = (10, 10, 10, 10, 0.9, 0)
    session = deva(lambda t: [hidden, hidden]).session()
    assert ids(run(session, [0])) == [[1]]
    nothing = Mask(0, 0, np.zeros((0, 0), bool))
    given = Instances(np.array([[5, 5, 9, 9]], np.float32), masks=(nothing,))
    session.reset()
    (result,) = session.update(frame(1), frame(1), given)
    assert len(result.tracks) == 0 and len(session.table) == 0


@pytest.mark.parametrize('clip', [1, 3])
def test_overlapping_objects_are_kept_apart_where_it_is_asked_for(clip):
    body, head = (5, 5, 20, 40), (8, 5, 12, 12)
    for apart in (False, True):
        method = deva(moving(body, head), keep_overlaps=apart, clip_frames=clip)
        results = run(method.session(), range(12))
        for result in results:
            areas = dict(
                zip(result.tracks.track_ids, (m.pixels.sum() for m in result.tracks.masks))
            )
            assert areas == {1: 20 * 40 - (0 if apart else 144), 2: 144}


@pytest.mark.parametrize('seed', range(12))
def test_whatever_comes_every_frame_is_answered_once_in_order(seed):
    draw = random.Random(seed)

    def find(t):
        count = draw.choice([0, 0, 1, 3, 9])
        return [
            (draw.randrange(60), draw.randrange(40), *draw.choices(range(1, 25), k=2),
             draw.random(), draw.randrange(-1, 3))
            for _ in range(count)
        ]  # fmt: skip

    apart = seed % 3 == 0
    method = deva(
        find,
        clip_frames=draw.randrange(1, 5),
        detection_every=draw.randrange(1, 6),
        max_missed=draw.randrange(0, 3),
        incremental=draw.random() < 0.5,
        max_objects=draw.choice([2, 6, 50]),
        keep_overlaps=apart,
    )
    session, results, shown, gone = method.session(), [], [], set()
    known, shape, t = set(), SIZE, 0

    def look():
        nonlocal known
        now = {each.track_id for each in session.table.objects}
        gone.update(known - now)
        assert not now & gone, 'an id is never given again'
        assert len(now) <= method.config.max_objects
        known = now

    for _ in range(120):
        t += draw.choice([1, 1, 1, 2, 9])
        if draw.random() < 0.05:
            shape = draw.choice([SIZE, (30, 40), (50, 90)])
        given = instances(find(t), shape) if draw.random() < 0.2 else None
        image = frame(t, shape)
        shown.append(t)
        results += session.update(image, image, given)
        look()
        if draw.random() < 0.2:
            prompt = click(draw.randrange(80), draw.randrange(50))
            if known and draw.random() < 0.3:
                prompt = dataclasses.replace(prompt, track_id=draw.choice(sorted(known)))
            with contextlib.suppress(PromptError):
                ask(session, t, prompt, shape)
            look()
        chance = draw.random()
        if chance < 0.05 and known:
            assert session.remove(draw.choice(sorted(known)))
        elif chance < 0.1:
            results += session.finish()
            assert session.figures()['frames_open'] == 0
        elif chance < 0.13:
            results += session.finish()
            session.reset()
        elif chance < 0.16:
            session = method.session(session)
        look()
    results += session.finish()
    assert [result.frame.stamp_ns for result in results] == shown
    for result in results:
        tracks = result.tracks
        assert len(set(tracks.track_ids.tolist())) == len(tracks)
        assert (np.diff(tracks.scores) <= 0).all(), 'best first'
        masks = full(tracks.masks, result.frame.shape)
        assert masks.any((1, 2)).all()
        assert apart or (masks.sum(0) <= 1).all()
        for box, mask in zip(tracks.boxes, tracks.masks):
            assert box.tolist() == [mask.x, mask.y, mask.x + mask.width, mask.y + mask.height]


# Prompts


def test_what_is_pointed_at_is_remembered_at_once_and_outlives_all_misses():
    session = deva(moving((40, 40, 12, 12)), detection_every=2, max_missed=1).session()
    run(session, range(4))
    assert ask(session, 3, click(20, 20)) == ([2], [[15, 15, 25, 25]])
    for t in range(4, 30):
        (result,) = session.update(frame(t), frame(t))
        (row,) = np.flatnonzero(result.tracks.track_ids == 2)
        x = 15 + STEP * (t - 3)
        assert result.tracks.boxes[row].tolist() == [x, 15, min(x + 10, 80), 25]
        assert result.tracks.first_seen_ns[row] == 3 and result.tracks.labels[row] == -1
    assert session.remove(2) and 2 not in session.ids()
    for prompt in (click(20, 20, track_id=2), click(20, 20, track_id=99)):
        with pytest.raises(PromptError, match='no track has the id'):
            ask(session, 29, prompt)


def test_a_detection_of_what_is_pointed_at_is_that_object():
    session = deva(moving((13, 15, 10, 12), without=[0])).session()
    run(session, [0])
    ask(session, 0, click(20, 20))
    results = run(session, range(1, 8))
    assert ids(results) == [[1]] * 7
    assert results[-1].tracks.labels.tolist() == [0], 'named by what confirms it'


def test_a_prompt_on_an_earlier_frame_is_brought_to_now():
    session = deva().session()
    run(session, range(5))
    assert ask(session, 1, click(20, 20)) == ([1], [[15, 15, 25, 25]]), 'as it was in that frame'
    (result,) = session.update(frame(5), frame(5))
    x = 15 + STEP * 4
    assert result.tracks.boxes.tolist() == [[x, 15, x + 10, 25]]
    with pytest.raises(PromptError, match='not seen any more'):
        ask(session, 1, Prompt(0, mask=block(76, 10, 4, 9)))


def test_a_correction_replaces_what_was_remembered():
    session = deva(moving((40, 40, 12, 12))).session()
    run(session, range(3))
    assert ask(session, 2, click(20, 20, track_id=1)) == ([1], [[15, 15, 25, 25]])
    (result,) = session.update(frame(3), frame(3))
    assert result.tracks.boxes.tolist() == [[17, 15, 27, 25]]
    both = np.zeros(SIZE, bool)
    both[15:25, 17:27] = both[40:50, 60:70] = True
    ask(session, 3, Prompt(0, 1, mask=crop(both)))
    assert ask(session, 3, click(65, 45, track_id=1, positive=False)) == ([1], [[17, 15, 27, 25]])
    with pytest.raises(PromptError, match='need an object that is seen'):
        ask(session, 3, click(65, 45, positive=False))


def test_what_is_pointed_at_lies_in_front_of_others():
    for apart in (False, True):
        session = deva(moving((10, 10, 20, 20)), keep_overlaps=apart).session()
        run(session, [0])
        ask(session, 0, click(20, 20))
        (result,) = session.update(frame(1), frame(1))
        areas = dict(zip(result.tracks.track_ids, (m.pixels.sum() for m in result.tracks.masks)))
        assert areas == {1: 400 - (0 if apart else 100), 2: 100}


@pytest.mark.parametrize('at', [3, 4])
def test_a_prompt_on_an_open_frame_is_in_its_answer(at):
    """Frames 3, 4, 5 are a clip: 3 and 4 are open when somebody points at one of them."""
    session = deva(moving((40, 40, 12, 12)), clip_frames=3, detection_every=3).session()
    results = [r for t in range(5) for r in session.update(frame(t), frame(t))]
    assert ids(results) == [[1]] * 3
    assert ask(session, at, click(20, 20)) == ([2], [[15, 15, 25, 25]])
    assert 2 in session.ids()
    again = session.method.session(session)  # as after a failure of the device
    again.update(frame(5), frame(5))
    results = run(again, range(6, 9))
    assert all(set(i) == {1, 2} for i in ids(results))
    x = 15 + STEP * (6 - at)
    assert [x, 15, x + 10, 25] in results[0].tracks.boxes.tolist()


def test_the_answers_of_a_clip_have_what_is_pointed_at_from_its_frame_on():
    session = deva(moving((40, 40, 12, 12)), clip_frames=3, detection_every=3).session()
    [session.update(frame(t), frame(t)) for t in range(5)]
    ask(session, 4, click(20, 20))
    assert ask(session, 4, click(30, 20, track_id=2)) == ([2], [[25, 15, 35, 25]])
    ask(session, 1, click(60, 10))  # answered already: brought to the last that is
    results = session.update(frame(5), frame(5))
    assert [r.frame.stamp_ns for r in results] == [3, 4, 5]
    assert [set(i) for i in ids(results)] == [{1, 3}, {1, 2, 3}, {1, 2, 3}]
    boxes = dict(zip(ids(results)[2], results[2].tracks.boxes.tolist()))
    assert boxes[2] == [27, 15, 37, 25] and boxes[3] == [63, 5, 73, 15]


def test_a_prompt_before_the_first_clip_is_answered():
    session = deva(clip_frames=3).session()
    session.update(frame(0), frame(0))
    assert ask(session, 0, click(20, 20)) == ([1], [[15, 15, 25, 25]])
    assert ids(session.finish()) == [[1]]
    assert ids(run(session, range(1, 8))) == [[1]] * 7


def test_prompts_that_cannot_be_followed_say_why():
    session = deva(max_objects=1).session()
    with pytest.raises(PromptError, match='no image has been tracked yet'):
        ask(session, 0, click(20, 20))
    run(session, [0, 1])
    ask(session, 0, click(20, 20))
    with pytest.raises(PromptError, match='1 objects are tracked, and max_objects is 1'):
        ask(session, 1, click(60, 20))
    run(session, [2], shape=(120, 160))
    with pytest.raises(PromptError, match='changed their size'):
        ask(session, 1, click(20, 20, track_id=1))
    assert deva().accepts == {'point', 'box', 'mask'}
    assert Deva(Scripted(), Moving()).accepts == frozenset(), 'nothing answers prompts'


# The method


def test_options():
    config = options.build(DevaConfig, {'clip_frames': 3, 'model': 'masa_nano', 'nano.top_k': 20})
    assert (config.clip_frames, config.carrier.top_k) == (3, 20)
    assert config.rules == Rules(5, False, 50, 1)
    assert options.build(DevaConfig, options.values_of(config)) == config
    for name, value in (('clip_frames', 0), ('detection_every', 0), ('propagator', 'x')):
        with pytest.raises(ConfigError, match=name):
            options.build(DevaConfig, {name: value})
    with pytest.raises(ConfigError, match='device'):
        Deva.load(options.build(DevaConfig, {'device': 'abacus'}), print)


def test_what_concerns_loading_stays():
    method = deva(moving((5, 5, 10, 10)))
    with pytest.raises(ConfigError, match='detector: read when the method is loaded'):
        method.configure(options.build(DevaConfig, {'detector': 'everything'}))
    session = method.session()
    run(session, range(2))
    method.configure(dataclasses.replace(method.config, detection_every=1, clip_frames=2))
    assert ids(run(session, range(2, 9))) == [[1]] * 7
    told = method.describe()
    assert told['method'] == 'deva' and told['detector_model'] == 'scripted'
    assert method.prepare(60, 80)
    method.interrupt()
    method.close()
