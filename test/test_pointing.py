# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tracks that somebody pointed at: kept, looked for, corrected; in the tracker and in masa."""

import dataclasses

import numpy as np
import pytest
from bodies import BLUE, RED, click, overlap
from conftest import scene
from test_tracking import FRAME, SECOND, seen

from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.masa_options import DetectorConfig
from masa_ros.errors import ConfigError, PromptError
from masa_ros.methods.masa import Masa, MasaConfig
from masa_ros.streams.stream import Stream
from masa_ros.tracking import ReleasedConfig, Tracker
from masa_ros.types import Frame, Instances, Mask, Prompt, TrackState

# The tracker


def ids(tracks):
    return tracks.track_ids.tolist()


def there(*objects):
    """A probe that sees these objects wherever it is asked, one for each box."""

    def probe(boxes):
        return seen(*objects[: len(boxes)])

    return probe


def test_what_is_pointed_at_is_a_track_at_once_and_is_never_forgotten():
    tracker = Tracker()
    tracker.update(seen(), 0)
    made = tracker.point(seen((0, 100, 100)), 0)
    assert ids(made) == [1] and made.states.tolist() == [TrackState.TRACKED]
    assert made.first_seen_ns.tolist() == [0]
    for t in range(1, 400):  # four times the memory
        assert len(tracker.update(seen(), t * FRAME)) == 0
    assert tracker.ids == [1]
    back = tracker.update(seen((0, 100, 100), (1, 300, 100)), 400 * FRAME)
    assert 1 in ids(back)
    assert tracker.remove(1) and tracker.ids != [1]


def test_it_is_looked_for_below_every_threshold_and_known_by_its_looks():
    tracker = Tracker()
    tracker.update(seen((1, 300, 100)), 0)
    tracker.point(seen((0, 100, 100)), 0)
    weak, other = (0, 100, 100, 0.05), (1, 100, 100, 0.9)
    for t in range(1, 50):
        found = tracker.update(seen((1, 300, 100)), t * FRAME, there(weak))
        assert dict(zip(ids(found), found.states))[2] == TrackState.COASTED
    for nothing in (there(other), there((0, 100, 100, 0.0)), None):
        t += 1
        assert ids(tracker.update(seen((1, 300, 100)), t * FRAME, nothing)) == [1]


def test_where_others_may_not_coast_it_is_looked_for_alone():
    tracker = Tracker()
    for t in range(6):
        tracker.update(seen((1, 300, 100)), t * FRAME)
    tracker.point(seen((0, 100, 100)), 5 * FRAME)
    asked = []

    def probe(boxes):
        asked.append(len(boxes))
        return seen((0, 100, 100, 0.1), (1, 300, 100))[: len(boxes)]

    assert ids(tracker.update(seen(), 6 * FRAME, probe, coast=False)) == [2]
    assert asked == [1]


def test_what_was_seen_earlier_is_found_from_there():
    tracker = Tracker()
    for t in range(6):
        tracker.update(seen((1, 300, 100)), t * FRAME)
    made = tracker.point(seen((0, 100, 100)), 2 * FRAME)
    assert ids(made) == [2] and made.states.tolist() == [TrackState.TRACKED]
    assert tracker.seen()[0].tolist() == [1] and tracker.mask(2) is None
    found = tracker.update(seen((0, 130, 100), (1, 300, 100)), 6 * FRAME)
    assert sorted(ids(found)) == [1, 2]
    assert found.first_seen_ns[found.track_ids == 2].tolist() == [2 * FRAME]


def test_a_track_that_began_since_is_the_one_that_was_pointed_at():
    """It was detected between the frame that somebody saw and the prompt."""
    tracker = Tracker()
    for t in range(3):
        tracker.update(seen((1, 300, 100)), t * FRAME)
    for t in range(3, 8):
        tracker.update(seen((0, 100 + 5 * t, 100), (1, 300, 100)), t * FRAME)
    assert ids(tracker.point(seen((0, 100, 100)), 2 * FRAME)) == [3]
    found = tracker.update(seen((0, 140, 100), (1, 300, 100)), 8 * FRAME)
    assert sorted(ids(found)) == [1, 3] and sorted(tracker.ids) == [1, 3]
    other = Tracker()
    for t in range(8):  # as old as the prompt: another object that looks alike
        other.update(seen((0, 100, 100)), t * FRAME)
    other.point(seen((0, 150, 100)), 2 * FRAME)
    other.update(seen((0, 100, 100)), 8 * FRAME)
    assert sorted(other.ids) == [1, 2]


def test_a_correction_keeps_id_and_age_and_forgets_the_rest():
    tracker = Tracker()
    for t in range(5):
        tracker.update(seen((0, 100, 100), (1, 300, 100)), t * FRAME)
    wrong = seen((1, 300, 100))
    right = dataclasses.replace(wrong, track_ids=np.array([1]))
    tracker.remove(2)
    made = tracker.point(right, 4 * FRAME)
    assert ids(made) == [1] and made.first_seen_ns.tolist() == [0]
    found = tracker.update(seen((1, 303, 100), (0, 100, 100)), 5 * FRAME)
    assert found.boxes[found.track_ids == 1].tolist() == [[283, 80, 323, 120]]


def test_a_track_that_is_held_is_kept_as_it_is():
    tracker = Tracker()
    tracker.update(seen((0, 100, 100)), 0)
    tracker.hold(1)
    for t in range(1, 200):
        tracker.update(seen(), t * FRAME)
    assert tracker.ids == [1]
    assert ids(tracker.update(seen((0, 100, 100)), 200 * FRAME)) == [1]


# The method


@pytest.fixture(scope='module')
def detector():
    return MasaDetector.load(DetectorConfig(device='cpu'))


def frame(t, image=None):
    return Frame(np.ascontiguousarray(scene(t)) if image is None else image, (t + 1) * FRAME)


BLANK = np.full((240, 320, 3), 128, np.uint8)


def started(detector, frames=3, **changes):
    stream = Stream(Masa(detector, MasaConfig(**changes)))
    for t in range(frames):
        results = stream.track(frame(t))
    return stream, results[-1].tracks


def place(tracks, track_id):
    (row,) = np.flatnonzero(tracks.track_ids == track_id)
    return tracks.boxes[row]


def test_a_click_on_a_track_keeps_that_track(detector):
    stream, tracks = started(detector)
    assert stream.method.accepts == {'point', 'box', 'mask', 'text'}
    known = ids(tracks)
    asked = stream.ask(click((215, 150))).tracks
    (track_id,) = ids(asked)
    assert track_id in known and overlap(asked.boxes[0], BLUE) > 0.8
    earlier = stream.ask(click((70, 80), stamp_ns=frame(0).stamp_ns)).tracks
    assert overlap(earlier.boxes[0], RED) > 0.8  # as it was in that frame
    kept = {track_id, *ids(earlier)}
    for t in range(3, 9):
        stream.update(frame(t, BLANK), *stream.method.encode([frame(t, BLANK)]))
    # Beyond the memory, which forgets all others.
    late = frame(0)._replace(stamp_ns=60 * SECOND)
    (result,) = stream.track(late._replace(image=BLANK))
    assert set(stream._session.ids()) == kept
    (result,) = stream.track(late._replace(stamp_ns=61 * SECOND))
    assert kept <= set(ids(result.tracks))
    assert overlap(place(result.tracks, track_id), BLUE) > 0.8
    assert stream.remove(track_id) and not stream.remove(track_id)


def test_what_is_no_detection_is_followed_too(detector):
    """Whoever finds the objects adds nothing to them but what somebody pointed at."""
    stream, nothing = Stream(Masa(detector, MasaConfig())), Instances.empty()
    stream.track(frame(0), nothing)
    box = Prompt(0, box=np.array(BLUE, np.float32))
    (track_id,) = ids(stream.ask(box).tracks)
    for t in range(1, 12):
        (result,) = stream.track(frame(t), nothing)
        assert ids(result.tracks) == [track_id]
        assert result.tracks.states.tolist() == [TrackState.COASTED]
        box = result.tracks.boxes[0]
        assert overlap(box, (BLUE[0] + t, BLUE[1], BLUE[2] + t, BLUE[3])) > 0.7
    (result,) = stream.track(frame(12, BLANK), nothing)
    assert len(result.tracks) == 0


def test_an_object_is_corrected_and_keeps_its_id(detector):
    stream, _ = started(detector)
    both = Mask(0, 0, np.zeros((240, 320), bool))
    for left, top, right, bottom in (RED, BLUE):
        both.pixels[top:bottom, left:right] = True
    (track_id,) = ids(stream.ask(Prompt(0, mask=both)).tracks)
    left = stream.ask(click((215, 150), track_id=track_id, positive=[False])).tracks
    assert ids(left) == [track_id] and overlap(left.boxes[0], RED) > 0.6
    right = stream.ask(click((217, 150), track_id=track_id)).tracks
    assert ids(right) == [track_id] and overlap(right.boxes[0], BLUE) > 0.6
    (result,) = stream.track(frame(3))
    assert overlap(place(result.tracks, track_id), BLUE) > 0.6


def test_only_what_somebody_points_at(detector):
    stream, tracks = started(detector, find='nothing')
    assert len(tracks) == 0
    (track_id,) = ids(stream.ask(click((215, 150))).tracks)
    for t in range(3, 9):
        (result,) = stream.track(frame(t))
        assert ids(result.tracks) == [track_id]
        assert overlap(result.tracks.boxes[0], BLUE) > 0.6
    stream.method.configure(MasaConfig(find='everything'))
    for t in range(9, 13):
        (result,) = stream.track(frame(t))
    assert track_id in ids(result.tracks) and len(result.tracks) > 1


def test_words_choose_what_is_found(detector):
    """Of the shapes none is a thing with a name: what the network calls them is asked for."""
    _, tracks = started(detector)
    label = int(tracks.labels[0])
    alike = int((tracks.labels == label).sum())
    config = {'find': 'words', 'words': f'{detector.class_names[label]}.'}
    _, named = started(detector, **config)
    assert len(named) >= alike and set(named.labels.tolist()) == {label}
    for words, message in (('', 'words is empty'), (' . ', 'words is empty')):
        with pytest.raises(ConfigError, match=message):
            Masa(detector, MasaConfig(find='words', words=words))
    with pytest.raises(ConfigError, match="no class 'unicorn'"):
        started(detector, find='words', words='unicorn')


def test_prompts_that_cannot_be_followed_say_why(detector):
    stream, _ = started(detector)
    for prompt, message in (
        (click((215, 150), track_id=99), 'no track has the id 99'),
        (click((5, 5), positive=[False]), 'need an object that is seen'),
        (click((400, 5)), 'outside of the 320x240 image'),
        (Prompt(0, text='elephant'), "nothing that answers to 'elephant' is seen"),
        (Prompt(0, text='unicorn'), "no class 'unicorn'"),
    ):
        with pytest.raises(PromptError, match=message):
            stream.ask(prompt)
    small = Frame(np.ascontiguousarray(scene()[::2, ::2]), 9 * FRAME)
    stream.track(small)
    with pytest.raises(PromptError, match='changed their size'):
        stream.ask(click((70, 80), stamp_ns=frame(2).stamp_ns))
    stream.reset()
    with pytest.raises(PromptError, match='no image'):
        stream._session.prompt(frame(0), stream.method.encode([frame(0)])[0], click((70, 80)))


def test_words_begin_all_that_answers_to_them(detector, monkeypatch):
    stream, _ = started(detector)
    boxes = np.array([RED, BLUE, (2, 2, 30, 30)], np.float32)
    named = Instances(boxes, np.array([0.9, 0.8, 0.7], np.float32), np.array([3, 3, 3], np.int32))
    monkeypatch.setattr(stream.method, 'named', lambda frame, encoded, words: named)
    asked = stream.ask(Prompt(0, text='cup.')).tracks
    assert len(set(ids(asked))) == 3 and asked.labels.tolist() == [3, 3, 3]
    corrected = stream.ask(Prompt(0, ids(asked)[2], text='cup.')).tracks
    assert ids(corrected) == [ids(asked)[2]] and overlap(corrected.boxes[0], RED) > 0.6


def test_the_released_associations_take_none(detector):
    released = ReleasedConfig(init_score_thr=0.5)
    stream, _ = started(detector, association='tao', tracker=released)
    assert stream.method.accepts == frozenset()
    with pytest.raises(PromptError, match='takes no prompts'):
        stream.ask(click((70, 80)))
    with pytest.raises(ConfigError, match='take no prompts'):
        started(detector, association='tao', tracker=released, find='nothing')


def test_another_method_goes_on_with_what_was_pointed_at(detector):
    stream, _ = started(detector)
    (track_id,) = ids(stream.ask(click((215, 150))).tracks)
    stream.move(Masa(detector, MasaConfig()))
    assert ids(stream.ask(click((215, 150))).tracks) == [track_id]
    (result,) = stream.track(frame(3))
    assert overlap(place(result.tracks, track_id), BLUE) > 0.6
