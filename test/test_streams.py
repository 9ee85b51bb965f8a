# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The rules of a stream, without ROS and without a network."""

import dataclasses

import numpy as np
import pytest
from conftest import scene
from toy import Toy, ToyConfig

from masa_ros.errors import PromptError
from masa_ros.streams.classes import ClassNames
from masa_ros.streams.matching import Matcher
from masa_ros.streams.numbering import Numbering
from masa_ros.streams.stream import Refused, Stream, StreamConfig
from masa_ros.types import Expected, Frame, Instances, Mask, Prompt, Result, TrackState

MS = 1_000_000
SECOND = 1000 * MS


class Scripted:
    """A method whose sessions say what they are told to, and what they were shown."""

    name, options, accepts, device = 'scripted', None, frozenset(), 'cpu'

    def __init__(self, boxes=((10, 10, 20, 20),)):
        self.tracks = Instances(
            np.array(boxes, np.float32),
            track_ids=np.arange(1, len(boxes) + 1),
            states=np.full(len(boxes), TrackState.TRACKED, np.uint8),
        )
        self.shown, self.given, self.resets, self.taken_over = [], [], 0, []

    def encode(self, frames):
        return [None] * len(frames)

    def session(self, after=None):
        self.taken_over.append(after is not None)
        return self

    def update(self, frame, encoded, given=None):
        self.shown.append(frame)
        self.given.append(given)
        return [Result(frame, self.tracks)]

    def finish(self):
        return []

    def reset(self):
        self.resets += 1

    def figures(self):
        return {}


def stream_of(method, **config):
    events = []
    stream = Stream(method, StreamConfig(**config), tell=lambda *event: events.append(event[0]))
    return stream, events


def frame(stamp_ns, size=(240, 320)):
    return Frame(np.zeros((*size, 3), np.uint8), stamp_ns)


def test_images_behind_a_newer_one_are_refused():
    stream, events = stream_of(Scripted())
    assert isinstance(stream.admit(frame(10 * SECOND)), Frame)
    for back, refused in ((1, True), (500, True), (0, False)):
        outcome = stream.admit(frame(10 * SECOND - back * MS))
        assert isinstance(outcome, Refused) == refused, back
    assert outcome.stamp_ns == 10 * SECOND and not events


@pytest.mark.parametrize('action, resets', [('reset', 1), ('continue', 0)])
def test_a_jump_back_begins_again_or_goes_on(action, resets):
    stream, events = stream_of(method := Scripted(), on_time_jump=action)
    for stamp in (10 * SECOND, 10 * SECOND - 501 * MS, 11 * SECOND):
        assert isinstance(stream.admit(frame(stamp)), Frame)
    assert events == ['time_jump'] and method.resets == resets


def test_an_image_without_a_stamp_is_as_much_later_as_it_came_later():
    stream, events = stream_of(Scripted())
    first = stream.admit(frame(0), arrived_ns=1000 * SECOND)
    assert (first.stamp_ns, first.stamped) == (1000 * SECOND, False)
    stream, events = stream_of(Scripted())
    assert stream.admit(frame(5 * SECOND), 1000 * SECOND).stamped
    between = stream.admit(frame(0), 1000 * SECOND + 30 * MS)
    assert (between.stamp_ns, between.stamped) == (5 * SECOND + 30 * MS, False)
    assert stream.admit(frame(5 * SECOND + 60 * MS), 1000 * SECOND + 60 * MS).stamped
    assert events == ['no_stamp'], 'and no jump of time'


def test_a_recording_may_begin_at_zero():
    stream, events = stream_of(Scripted())
    assert stream.admit(frame(0)).stamped and not events


def test_an_image_that_fails_does_not_take_along_what_was_answered():
    stream, _ = stream_of(method := Scripted())
    open_ = Result(frame(SECOND), method.tracks)
    method.finish, update = lambda: [open_], method.update
    stream.track(open_.frame)
    stream.reset()
    method.finish = list

    def broken(*arguments):
        raise RuntimeError('broken')

    method.update = broken
    with pytest.raises(RuntimeError):
        stream.track(frame(2 * SECOND))
    method.update = update
    stamps = [result.frame.stamp_ns for result in stream.track(frame(3 * SECOND))]
    assert stamps == [SECOND, 3 * SECOND]


def test_what_cannot_be_answered_is_forgotten_too():
    stream, _ = stream_of(method := Scripted())

    def broken():
        raise RuntimeError('broken')

    method.finish = broken
    with pytest.raises(RuntimeError):
        stream.reset()
    assert method.resets == 1


def test_a_new_size_is_told():
    stream, events = stream_of(Scripted())
    for number, size in enumerate(((240, 320), (240, 320), (120, 160))):
        stream.track(frame(number * SECOND, size))
    assert events == ['size_change']


def test_what_is_published_lies_inside_the_image():
    boxes = ((-5, -7, 1e30, 20), (400, 10, 500, 20), (300, 200, 330, 250))
    method = Scripted(boxes)
    pixels = np.ones((50, 30), bool)
    masks = (None, None, Mask(300, 200, pixels))
    method.tracks = dataclasses.replace(method.tracks, masks=masks)
    stream, events = stream_of(method)
    (result,) = stream.track(frame(SECOND))
    assert result.tracks.boxes.tolist() == [[0, 0, 320, 20], [300, 200, 320, 240]]
    assert result.tracks.masks[1] == Mask(300, 200, pixels[:40, :20])
    assert result.tracks.masks[1].full(240, 320).sum() == 800
    assert events == ['outside']


def test_given_detections_are_brought_into_the_image():
    method = Scripted()
    stream, events = stream_of(method)
    boxes = [(-9, 1, 5, 5), (np.nan, 1, 2, 3), (1, 1, np.inf, 3), (7, 7, 7, 9), (900, 1, 950, 4)]
    stream.track(frame(SECOND), Instances(np.array(boxes, np.float32)))
    assert method.given[0].boxes.tolist() == [[0, 1, 5, 5]]
    assert events == ['bad_detections']


def test_a_session_of_the_same_method_goes_on_and_of_another_begins():
    class Other(Scripted):
        pass

    first, second, third = Scripted(), Scripted(), Other()
    stream, _ = stream_of(first)
    ids = [stream.track(frame(SECOND))[0].tracks.track_ids[0]]
    for number, method in enumerate((second, third), start=2):
        stream.move(method)
        ids.append(stream.track(frame(number * SECOND))[0].tracks.track_ids[0])
    assert (second.taken_over, third.taken_over) == ([True], [False])
    assert ids == [1, 1, 2]


def test_numbers_are_never_given_twice():
    plain = Numbering()
    assert plain.number(np.array([3, 1])).tolist() == [3, 1]
    plain.begin_session()
    assert plain.number(np.array([1])).tolist() == [4] == [plain.highest]
    assert (plain.own(4), plain.own(3), plain.own(5)) == (1, 0, 0)
    left, right = Numbering(1, 2), Numbering(2, 2)
    assert left.number(np.arange(1, 4)).tolist() == [1, 3, 5]
    assert right.number(np.arange(1, 4)).tolist() == [2, 4, 6]
    left.begin_session()
    assert left.number(np.array([1])).tolist() == [7]


def test_sessions_that_make_use_of_it_are_told_where_their_tracks_should_be():
    class Told(Scripted):
        told = None

        def expect(self, expected):
            self.told = expected

    places = Expected(np.array([5, 7, 6]), np.arange(12.0).reshape(3, 4))
    for method in (Scripted(), Told()):
        stream = Stream(method, numbering=Numbering(first=5, step=2))
        stream.track(frame(SECOND))
        stream.update(stream.admit(frame(2 * SECOND)), None, expected=lambda: places)
        assert len(method.shown) == 2
    assert method.told.track_ids.tolist() == [1, 0, 0], 'as the session counts; others are none'
    np.testing.assert_array_equal(method.told.boxes, places.boxes)


def test_class_names_and_numbers_do_not_take_each_other():
    classes = ClassNames()
    labels = [
        classes.label(name) for name in ('cat', '0', '7', 'dog', '7', 'cat', '', '12345678901')
    ]
    assert labels == [0, 1, 7, 2, 7, 0, -1, 3]
    assert classes.names == {0: 'cat', 1: '0', 2: 'dog', 3: '12345678901'}


# A method that answers late, and prompts


def toy(**config):
    return Stream(Toy(ToyConfig(**config)))


def test_answers_belong_to_the_frames_that_they_are_of():
    stream = toy()
    frames = [Frame(scene(4 * i), i * SECOND // 10) for i in range(4)]
    answered = [[result.frame for result in stream.track(f)] for f in frames]
    assert [len(some) for some in answered] == [0, 1, 1, 1]
    assert [some[0] is frame for some, frame in zip(answered[1:], frames)] == [True] * 3
    (last,) = stream.finish()
    assert last.frame is frames[3] and last.class_names == {-1: 'colour'}


def test_open_frames_are_answered_when_the_tracks_are_forgotten():
    stream = toy()
    before = Frame(scene(), 100 * SECOND)
    stream.track(before)
    assert [r.frame is before for r in stream.track(Frame(scene(), SECOND))] == [True]
    stream.reset()
    assert [r.frame.stamp_ns for r in stream.finish()] == [SECOND]


def test_prompts_become_tracks_are_corrected_and_removed():
    stream = toy(red=False)
    for i in range(3):
        stream.track(Frame(scene(), i * SECOND))
    blue = stream.ask(Prompt(SECOND, box=np.array((190, 120, 240, 180), np.float32))).tracks
    assert blue.track_ids.tolist() == [1] and blue.boxes[0].tolist() == [180, 110, 251, 191]
    yellow = stream.ask(Prompt(0, points=np.array([[90, 180]], np.float32))).tracks
    assert yellow.track_ids.tolist() == [2]
    moved = stream.ask(Prompt(0, track_id=1, points=np.array([[70, 80]], np.float32))).tracks
    assert moved.track_ids.tolist() == [1] and moved.boxes[0, 0] < 70
    assert stream.remove(2) and not stream.remove(2)
    assert [r.tracks.track_ids.tolist() for r in stream.finish()] == [[1, 2]], 'as it was then'


@pytest.mark.parametrize(
    'prompt, words',
    [
        (Prompt(0), 'empty'),
        (Prompt(0, text='cup'), 'toy does not understand text; it takes: box, point'),
        (Prompt(7, points=np.zeros((1, 2), np.float32)), 'the image is gone'),
        (Prompt(0, track_id=9, points=np.zeros((1, 2), np.float32)), 'no track has the id 9'),
        (Prompt(0, points=np.full((1, 2), -4, np.float32)), 'outside'),
    ],
)
def test_a_prompt_that_cannot_be_followed_says_why(prompt, words):
    stream = toy()
    stream.track(Frame(scene(), SECOND))
    with pytest.raises(PromptError, match=words):
        stream.ask(prompt)


def test_only_recent_frames_are_held():
    stream = Stream(Toy(ToyConfig()), StreamConfig(held_frames=2))
    for number in range(1, 5):
        stream.track(Frame(scene(), number * SECOND))
    point = np.array([[70, 80]], np.float32)
    for stamp_ns, taken in ((3, 3), (3.4, 3), (3.6, 4), (4, 4), (9, 4), (0, 4)):
        asked = stream.ask(Prompt(int(stamp_ns * SECOND), points=point))
        assert (len(asked.tracks), asked.frame.stamp_ns) == (1, taken * SECOND)
    with pytest.raises(PromptError, match='1 s before the oldest of the 2 that are held'):
        stream.ask(Prompt(2 * SECOND, points=point))


def test_names_stay_with_their_tracks_until_these_are_forgotten():
    stream = toy(red=False)
    stream.track(Frame(scene(), SECOND))
    for name, place in (('ball', (70, 80)), ('', (215, 150))):
        stream.ask(Prompt(0, points=np.array([place], np.float32), name=name))
    stream.track(Frame(scene(), 2 * SECOND))
    (result,) = stream.track(Frame(scene(), 3 * SECOND))
    assert dict(zip(result.tracks.track_ids.tolist(), result.tracks.names)) == {1: 'ball', 2: ''}
    with pytest.raises(PromptError, match='no track has the id 7'):
        stream.keep_only([1, 7])
    assert stream.keep_only([1]) == [2] and stream.keep_only([]) == [1]


def test_a_mask_that_reaches_beyond_the_image_is_refused():
    stream = toy()
    stream.track(Frame(scene(), SECOND))
    mask = Mask.from_counts(300, 0, 1 << 14, 1 << 14, np.array([1 << 28]))
    with pytest.raises(PromptError, match='toy does not understand mask'):
        stream.ask(Prompt(0, mask=mask))
    stream.method.accepts = frozenset({'mask'})
    with pytest.raises(PromptError, match='beyond the 320x240 image'):
        stream.ask(Prompt(0, mask=mask))


# Images and the detections made on them


def played(matcher, *events):
    """What becomes of arrivals: pairs, images without, detections without."""
    pairs, images, detections = [], [], 0
    for kind, stamp in events:
        add = matcher.add_image if kind == 'image' else matcher.add_detections
        outcome = add(stamp, stamp)
        pairs += outcome.pairs
        images += outcome.images
        detections += outcome.detections
    return pairs, images, detections


def both(*stamps):
    return [event for stamp in stamps for event in (('image', stamp), ('detections', stamp))]


def test_images_are_paired_with_their_detections():
    assert played(Matcher(0, 5), *both(1, 2, 3)) == ([(1, 1), (2, 2), (3, 3)], [], 0)
    early = [('detections', 1), ('image', 1)]
    assert played(Matcher(0, 5), *early) == ([(1, 1)], [], 0)
    near = [('image', 100), ('image', 200), ('detections', 190)]
    assert played(Matcher(20, 5), *near) == ([(200, 190)], [100], 0)


def test_a_slow_detector_and_a_recording_that_loops():
    stamps = [10, 20, 30, 40] * 3
    events = [('image', s) for s in stamps[:3]]  # the detector is three images behind
    for i, stamp in enumerate(stamps):
        events.append(('detections', stamp))
        if i + 3 < len(stamps):
            events.append(('image', stamps[i + 3]))
    assert played(Matcher(2, 10), *events) == ([(s, s) for s in stamps], [], 0)


def test_a_detector_that_leaves_images_out():
    events = [('image', s) for s in range(10)] + [('detections', s) for s in (0, 4, 8)]
    pairs, images, detections = played(Matcher(0, 20), *events)
    assert pairs == [(0, 0), (4, 4), (8, 8)]
    assert images == [1, 2, 3, 5, 6, 7] and detections == 0


def test_nobody_waits_for_ever():
    matcher = Matcher(0, 3)
    assert played(matcher, *[('image', s) for s in range(5)]) == ([], [0, 1], 0)
    assert len(matcher) == 3 and matcher.clear() == [2, 3, 4]
    assert played(matcher, *[('detections', s) for s in range(5)]) == ([], [], 2)
