# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The method sam_pt: prompts, points, windows, what is found by itself, ids, sizes, limits."""

import dataclasses

import numpy as np
import pytest
import torch
from bodies import BLUE, RED, YELLOW, click, frame, overlap, shifted

from masa_ros import options
from masa_ros.errors import ConfigError, PromptError
from masa_ros.methods import METHODS
from masa_ros.methods.sam_pt import SamPt, SamPtConfig
from masa_ros.models.pips import Pips
from masa_ros.point_trackers.pips import PipsTracker
from masa_ros.point_trackers.protocol import Seen
from masa_ros.streams.stream import Stream
from masa_ros.types import Frame, Instances, Mask, Prompt, Result

MOVING = ((1, RED), (2, BLUE))


@pytest.fixture(scope='module')
def loaded():
    return SamPt.load(SamPtConfig(device='cpu'), lambda text: None)


def method(loaded, tracker=None, **changes):
    """The shipped network and Lucas-Kanade with other options."""
    config = options.build(SamPtConfig, {'device': 'cpu', **changes})
    return SamPt(loaded.detector, loaded.segmenter, tracker or loaded.tracker, config)


def started(loaded, **changes):
    """A stream whose first frame has been tracked."""
    stream = Stream(method(loaded, **changes))
    (result,) = stream.track(frame(0))
    return stream, result


def ask(stream, prompt):
    return stream.ask(prompt).tracks


def boxes_of(result):
    return dict(zip(result.tracks.track_ids.tolist(), result.tracks.boxes))


def pointed_at(loaded, **changes):
    """A stream in which the red and the blue body are followed."""
    stream, _ = started(loaded, **changes)
    ask(stream, click((70, 80)))
    ask(stream, Prompt(0, box=np.array(BLUE, np.float32)))
    return stream


def test_it_is_registered():
    assert METHODS['sam_pt'] is SamPt
    assert SamPt.options is SamPtConfig


def test_a_click_a_box_and_a_mask_are_followed_at_once(loaded):
    stream, result = started(loaded)
    assert len(result.tracks) == 0 and stream.method.accepts == {'point', 'box', 'mask', 'text'}
    drawn = np.zeros((49, 101), bool)
    drawn[5:44, 10:91] = True
    prompts = [
        click((70, 80)),
        Prompt(0, box=np.array(BLUE, np.float32)),
        Prompt(0, mask=Mask(40, 156, drawn)),
    ]
    asked = [ask(stream, prompt) for prompt in prompts]
    assert [tracks.track_ids.tolist() for tracks in asked] == [[1], [2], [3]]
    for t in range(1, 12):
        (result,) = stream.track(frame(t))
        assert result.frame.stamp_ns == frame(t).stamp_ns
        found = boxes_of(result)
        assert set(found) == {1, 2, 3}
        for track_id, box in MOVING:
            assert overlap(found[track_id], shifted(box, t)) > 0.6, (t, track_id)
        assert overlap(found[3], YELLOW) > 0.6
    assert (result.tracks.first_seen_ns == frame(0).stamp_ns).all()


def test_tracks_say_where_their_points_are(loaded):
    stream = pointed_at(loaded, positives=6, negatives=2)
    for t in range(1, 6):
        (result,) = stream.track(frame(t))
    again = Instances.concatenate([result.tracks, Instances.empty()])
    assert again == result.tracks and again != dataclasses.replace(again, points=None)
    for track_id, box in MOVING:
        (i,) = np.flatnonzero(result.tracks.track_ids == track_id)
        seen = result.tracks.points[i]
        assert len(seen.points) == 8 and seen.positive.tolist() == [True] * 6 + [False] * 2
        left, top, right, bottom = shifted(box, t)
        on = seen.points[seen.visible & seen.positive]
        assert len(on) > 2
        assert ((on >= (left - 2, top - 2)) & (on <= (right + 2, bottom + 2))).all()
    assert result.tracks[:1].points == result.tracks.points[:1]


def test_points_move_as_their_object_does_until_they_are_chosen_anew(loaded):
    stream = pointed_at(loaded, reinit='never')
    (first,) = stream.track(frame(1))
    for t in range(2, 8):
        (result,) = stream.track(frame(t))
    for track_id in (1, 2):
        (old, new) = (
            r.tracks.points[int(np.flatnonzero(r.tracks.track_ids == track_id)[0])]
            for r in (first, result)
        )
        both = old.visible & new.visible & old.positive
        assert both.sum() > 2
        by = np.median((new.points - old.points)[both], 0)
        assert np.abs(by - (6, 0)).max() < 0.7, track_id
    windows = pointed_at(loaded, horizon=3)
    (first,) = windows.track(frame(1))
    for t in range(2, 8):
        (result,) = windows.track(frame(t))
    before, after = (
        np.round(r.tracks.points[0].points - r.tracks.boxes[0][:2]) for r in (first, result)
    )
    assert not np.array_equal(before, after)


def test_a_prompt_on_an_earlier_frame_is_brought_to_now(loaded):
    stream = Stream(method(loaded))
    for t in range(6):
        stream.track(frame(t))
    asked = ask(stream, click((215, 150), stamp_ns=frame(0).stamp_ns))
    assert overlap(asked.boxes[0], BLUE) > 0.6  # as it is in the frame that was clicked
    (result,) = stream.track(frame(6))
    assert overlap(boxes_of(result)[1], shifted(BLUE, 6)) > 0.6


def test_a_correction_changes_the_object_and_keeps_its_id(loaded):
    stream, _ = started(loaded)
    asked = ask(stream, Prompt(0, box=np.array((36, 46, 251, 191), np.float32)))
    (track_id,) = asked.track_ids.tolist()
    corrected = ask(stream, click((70, 80), track_id=track_id))
    assert corrected.track_ids.tolist() == [track_id]
    assert overlap(corrected.boxes[0], RED) > 0.6
    (result,) = stream.track(frame(1))
    assert overlap(boxes_of(result)[track_id], shifted(RED, 1)) > 0.6
    with pytest.raises(PromptError, match='no track has the id 99'):
        ask(stream, click((70, 80), track_id=99))


def test_a_click_beside_takes_away_what_is_seen_there(loaded):
    stream, _ = started(loaded)
    both = np.zeros((240, 320), bool)
    for left, top, right, bottom in (RED, BLUE):
        both[top:bottom, left:right] = True
    (track_id,) = ask(stream, Prompt(0, mask=Mask(0, 0, both))).track_ids.tolist()
    left = ask(stream, click((215, 150), track_id=track_id, positive=[False]))
    assert overlap(left.boxes[0], RED) > 0.6
    with pytest.raises(PromptError, match='need an object that is seen'):
        ask(stream, click((215, 150), positive=[False]))


def test_an_object_that_is_removed_is_seen_no_more(loaded):
    stream = pointed_at(loaded)
    stream.track(frame(1))
    assert stream.remove(1) and not stream.remove(1)
    for t in range(2, 12):
        (result,) = stream.track(frame(t))
        assert set(boxes_of(result)) == {2}
    assert stream.figures()['tracks_in_memory'] == 1


def test_everything_is_found_and_new_objects_get_new_ids(loaded):
    stream, result = started(loaded, find='everything', detection_every=2, min_area=50)
    assert len(result.tracks) >= 2
    known = set(result.tracks.track_ids.tolist())
    (result,) = stream.track(frame(1))
    assert set(result.tracks.track_ids.tolist()) <= known
    boxes = np.array([shifted(BLUE, 2), (250, 20, 300, 80)], np.float32)
    filled = (Mask(182, 110, np.ones((81, 71), bool)), Mask(250, 20, np.ones((60, 50), bool)))
    given = Instances(boxes, np.array([0.9, 0.8], np.float32), masks=filled)
    (result,) = stream.track(frame(2), given)  # one is there already
    (fresh,) = set(boxes_of(result)) - known
    assert fresh > max(known) and overlap(boxes_of(result)[fresh], boxes[1]) > 0.9


def test_given_detections_begin_objects(loaded):
    stream = Stream(method(loaded))
    given = Instances(np.array([BLUE], np.float32), np.array([0.7], np.float32))
    (result,) = stream.track(frame(0), given)
    assert overlap(result.tracks.boxes[0], BLUE) > 0.6
    assert result.tracks.scores[0] == pytest.approx(0.7)
    (result,) = stream.track(frame(1))
    assert len(result.tracks) == 1


def test_what_was_found_is_forgotten_and_what_was_pointed_at_is_not(loaded):
    stream, _ = started(loaded, find='everything', forget_after=3, detection_every=1000)
    (kept,) = ask(stream, click((215, 150))).track_ids.tolist()
    blank = np.full((240, 320, 3), 128, np.uint8)
    for t in range(1, 9):
        (result,) = stream.track(frame(t)._replace(image=blank))
        assert len(result.tracks) == 0, 'no point is followed there'
    assert stream.figures()['tracks_in_memory'] == 1
    assert stream.figures()['objects_forgotten'] >= 2
    assert stream.remove(kept)


def test_an_object_that_is_not_seen_is_corrected_back(loaded):
    stream = pointed_at(loaded)
    blank = np.full((240, 320, 3), 128, np.uint8)
    stream.track(frame(1)._replace(image=blank))
    (result,) = stream.track(frame(2))
    assert len(result.tracks) == 0
    assert ask(stream, click((217, 150), track_id=2)).track_ids.tolist() == [2]
    (result,) = stream.track(frame(3))
    assert overlap(boxes_of(result)[2], shifted(BLUE, 3)) > 0.6


def test_objects_are_limited(loaded):
    stream, _ = started(loaded, max_objects=1)
    ask(stream, click((70, 80)))
    with pytest.raises(PromptError, match='1 objects are tracked, and max_objects is 1'):
        ask(stream, click((215, 150)))


def test_another_size_keeps_objects_and_ids(loaded):
    stream, _ = started(loaded)
    ask(stream, click((215, 150)))
    stream.track(frame(1))
    small = np.ascontiguousarray(frame(2).image[::2, ::2])
    (result,) = stream.track(Frame(small, frame(2).stamp_ns))
    assert overlap(2 * boxes_of(result)[1], shifted(BLUE, 2)) > 0.6
    with pytest.raises(PromptError, match='changed their size'):
        ask(stream, click((70, 80), stamp_ns=frame(1).stamp_ns))


def test_reset_and_a_new_method_with_the_same_objects(loaded):
    stream, _ = started(loaded)
    ask(stream, click((215, 150)))
    stream.move(method(loaded, forget_after=7))
    (result,) = stream.track(frame(1))
    assert overlap(boxes_of(result)[1], shifted(BLUE, 1)) > 0.6
    stream.reset()
    (result,) = stream.track(frame(2))
    assert len(result.tracks) == 0 and stream.finish() == []
    assert ask(stream, click((215, 150))).track_ids.tolist() == [2]


def test_options_change_while_it_runs(loaded):
    running = method(loaded)
    stream = Stream(running)
    stream.track(frame(0))
    ask(stream, click((215, 150)))
    (result,) = stream.track(frame(1))
    assert len(result.tracks.points[0].points) == 9
    running.configure(dataclasses.replace(running.config, positives=4, negatives=0, horizon=3))
    for t in range(2, 7):
        (result,) = stream.track(frame(t))
        assert overlap(boxes_of(result)[1], shifted(BLUE, t)) > 0.6
    assert result.tracks.points[0].positive.tolist() == [True] * 4
    with pytest.raises(ConfigError, match='point_tracker: read when the method is loaded'):
        running.configure(options.build(SamPtConfig, {'point_tracker': 'pips'}))
    facts = running.describe()
    assert facts['method'] == 'sam_pt' and facts['point_tracker_model'] == 'Lucas-Kanade'
    assert running.prepare(240, 320)
    running.interrupt()
    running.close()


def test_what_fails_in_one_frame_is_followed_in_the_next(loaded, monkeypatch):
    stream = pointed_at(loaded)
    stream.track(frame(1))
    with monkeypatch.context() as broken, pytest.raises(RuntimeError, match='no memory'):
        broken.setattr(
            type(loaded.detector),
            'describe',
            lambda *_: (_ for _ in ()).throw(RuntimeError('no memory')),
        )
        stream.track(frame(2))
    for t in (3, 4):
        (result,) = stream.track(frame(t))
        for track_id, box in MOVING:
            assert overlap(boxes_of(result)[track_id], shifted(box, t)) > 0.6


@pytest.mark.parametrize('variant', ['B', 'C', 'D'])
def test_variants_that_look_ahead_answer_every_frame_once(loaded, variant):
    stream = pointed_at(loaded, reinit=variant, horizon=4)
    given = [result for t in range(1, 12) for result in stream.track(frame(t))]
    assert stream.figures()['frames_open'] == 11 - len(given) > 0
    given += stream.finish()
    assert [r.frame.stamp_ns for r in given] == [frame(t).stamp_ns for t in range(1, 12)]
    for t, result in enumerate(given, 1):
        for track_id, box in MOVING:
            assert overlap(boxes_of(result)[track_id], shifted(box, t)) > 0.6, (t, track_id)
    (result,) = stream.track(frame(12)) or stream.finish()
    assert set(boxes_of(result)) == {1, 2}, 'it goes on after an end'


class Late:
    """Points that move to the right as the bodies do, told some frames later."""

    late, patch = 3, 0

    def encode(self, frames):
        return [None for _ in frames]

    def begin(self, encoded, points):
        return LateChain(points)

    def facts(self):
        return {'model': 'late'}


class LateChain:
    def __init__(self, points):
        self.points, self.frames, self.told = points, 0, 0

    def _seen(self, t):
        return self.points + np.float32((t, 0)), np.ones(len(self.points), bool)

    def step(self, encoded):
        self.frames += 1
        new = range(self.told + 1, self.frames - Late.late + 1)
        self.told = max(self.told, self.frames - Late.late)
        return [Seen(*self._seen(t)) for t in new]

    def rest(self):
        return [Seen(*self._seen(t)) for t in range(self.told + 1, self.frames + 1)]

    def keep(self, index):
        self.points = self.points[index]


def test_late_points_give_late_answers_with_the_frames_they_are_of(loaded):
    stream = Stream(method(loaded, Late(), horizon=100))
    (result,) = stream.track(frame(0))
    ask(stream, click((215, 150)))
    given = []
    for t in range(1, 9):
        answered = stream.track(frame(t))
        given += answered
        assert stream.figures()['frames_open'] == min(t, Late.late)
        assert all(isinstance(each, Result) for each in answered)
    assert ask(stream, click((78, 80))).track_ids.tolist() == [2]
    moved = method(loaded, Late())
    stream.move(moved)  # what is open is followed by the new one
    given += stream.track(frame(9))
    given += stream.finish()
    assert [r.frame.stamp_ns for r in given] == [frame(t).stamp_ns for t in range(1, 10)]
    for t, result in enumerate(given, 1):
        assert overlap(boxes_of(result)[1], shifted(BLUE, t)) > 0.6, t
        assert (2 in boxes_of(result)) == (t >= 8), t


def test_pips_answers_windows_and_uses_the_same_masks(loaded):
    torch.manual_seed(0)
    network = Pips()
    with torch.no_grad():  # points stay where they are, and are seen
        network.delta_block.to_delta[-1].weight.zero_()
        network.delta_block.to_delta[-1].bias.zero_()
        network.vis_predictor[0].weight.zero_()
        network.vis_predictor[0].bias.fill_(9.0)
    size = (120, 160)
    stream = Stream(method(loaded, PipsTracker(network), positives=3))
    still = [frame(0, size)._replace(stamp_ns=frame(t).stamp_ns) for t in range(12)]
    stream.track(still[0])
    ask(stream, click((70, 80)))
    given = [stream.track(each) for each in still[1:]]
    assert [len(each) for each in given[:6]] == [0] * 6, 'the window is open'
    results = [r for each in given for r in each] + list(stream.finish())
    assert [r.frame.stamp_ns for r in results] == [each.stamp_ns for each in still[1:]]
    masks = [r.tracks.masks[0] for r in results]
    assert all(np.isin(r.tracks.track_ids, [1]).all() and len(r.tracks) for r in results)
    assert all(overlap(mask.box, masks[0].box) > 0.8 for mask in masks)
    assert stream.method.describe()['point_tracker_model'] == 'PIPs'


def test_the_released_rules_answer_a_window_later(loaded):
    stream = pointed_at(loaded, released=True, horizon=4)
    given = [stream.track(frame(t)) for t in range(1, 10)]
    assert [len(each) for each in given[:3]] == [0, 0, 0]
    results = [r for each in given for r in each] + list(stream.finish())
    assert [r.frame.stamp_ns for r in results] == [frame(t).stamp_ns for t in range(1, 10)]
    for t, result in enumerate(results, 1):
        assert overlap(boxes_of(result)[2], shifted(BLUE, t)) > 0.6, t
