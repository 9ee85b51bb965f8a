# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The method sam_track: prompts, what is found by itself, ids, sizes, limits."""

import dataclasses

import numpy as np
import pytest
from bodies import BLUE, RED, YELLOW, click, frame, overlap, shifted

from masa_ros import options
from masa_ros.errors import ConfigError, PromptError
from masa_ros.methods import METHODS
from masa_ros.methods.sam_track import SamTrack, SamTrackConfig
from masa_ros.streams.stream import Stream
from masa_ros.types import Frame, Instances, Mask, Prompt


@pytest.fixture(scope='module')
def loaded():
    return SamTrack.load(SamTrackConfig(device='cpu'), lambda text: None)


def method(loaded, **changes):
    """The shipped networks with other options."""
    config = dataclasses.replace(SamTrackConfig(device='cpu'), **changes)
    return SamTrack(loaded.detector, loaded.segmenter, loaded.propagator, config)


def ask(stream, prompt):
    return stream.ask(prompt).tracks


def started(loaded, **changes):
    """A stream whose first frame has been tracked."""
    stream = Stream(method(loaded, **changes))
    (result,) = stream.track(frame(0))
    return stream, result


def test_it_is_registered():
    assert METHODS['sam_track'] is SamTrack
    assert SamTrack.options is SamTrackConfig


def test_nothing_is_tracked_until_somebody_points_at_it(loaded):
    stream, result = started(loaded)
    assert len(result.tracks) == 0 and stream.method.accepts == {'point', 'box', 'mask', 'text'}
    (result,) = stream.track(frame(1))
    assert len(result.tracks) == 0


def test_a_click_a_box_and_a_mask_are_followed(loaded):
    stream, _ = started(loaded)
    drawn = np.zeros((49, 101), bool)
    drawn[5:44, 10:91] = True
    prompts = [
        click((70, 80)),
        Prompt(0, box=np.array(BLUE, np.float32)),
        Prompt(0, mask=Mask(40, 156, drawn)),
    ]
    asked = [ask(stream, prompt) for prompt in prompts]
    assert [tracks.track_ids.tolist() for tracks in asked] == [[1], [2], [3]]
    for t in range(1, 8):
        (result,) = stream.track(frame(t))
        found = dict(zip(result.tracks.track_ids.tolist(), result.tracks.boxes))
        assert set(found) == {1, 2, 3}
        for track_id, box in zip((1, 2, 3), (RED, BLUE, YELLOW)):
            assert overlap(found[track_id], shifted(box, t)) > 0.6, (t, track_id)
    masks = [mask.full(240, 320) for mask in result.tracks.masks]
    assert np.sum(masks, 0).max() == 1
    assert (result.tracks.first_seen_ns == frame(0).stamp_ns).all()


def test_a_prompt_on_an_earlier_frame_is_brought_to_now(loaded):
    stream = Stream(method(loaded))
    for t in range(6):
        stream.track(frame(t, shift=3))
    asked = ask(stream, click((70, 80), stamp_ns=frame(0).stamp_ns))
    assert overlap(asked.boxes[0], RED) > 0.6  # as it is in the frame that was clicked
    (result,) = stream.track(frame(6, shift=3))
    assert result.tracks.track_ids.tolist() == [1]
    assert overlap(result.tracks.boxes[0], shifted(RED, 18)) > 0.6


def test_a_correction_changes_the_object_and_keeps_its_id(loaded):
    stream, _ = started(loaded)
    asked = ask(stream, Prompt(0, box=np.array((36, 46, 251, 191), np.float32)))
    (track_id,) = asked.track_ids.tolist()
    corrected = ask(stream, click((70, 80), track_id=track_id))
    assert corrected.track_ids.tolist() == [track_id]
    assert overlap(corrected.boxes[0], RED) > 0.6
    (result,) = stream.track(frame(1))
    assert overlap(result.tracks.boxes[0], shifted(RED, 1)) > 0.6
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
    (red,) = ask(stream, click((70, 80))).track_ids.tolist()
    with pytest.raises(PromptError, match='nothing would be left'):
        ask(stream, click((70, 80), track_id=red, positive=[False]))


def test_the_last_that_is_pointed_at_lies_in_front(loaded):
    stream, _ = started(loaded)
    large = np.ones((100, 100), bool)
    ask(stream, Prompt(0, mask=Mask(30, 30, large)))
    ask(stream, Prompt(0, mask=Mask(50, 50, np.ones((40, 40), bool))))
    (result,) = stream.track(frame(0)._replace(stamp_ns=frame(1).stamp_ns))
    masks = {i: m.full(240, 320) for i, m in zip(result.tracks.track_ids, result.tracks.masks)}
    assert not (masks[1] & masks[2]).any()
    assert masks[2][60:80, 60:80].mean() > 0.9


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
    found = dict(zip(result.tracks.track_ids.tolist(), result.tracks.boxes))
    (fresh,) = set(found) - known
    assert fresh > max(known) and overlap(found[fresh], boxes[1]) > 0.9


def test_given_detections_begin_objects(loaded):
    stream = Stream(method(loaded))
    given = Instances(np.array([BLUE], np.float32), np.array([0.7], np.float32))
    (result,) = stream.track(frame(0), given)
    assert overlap(result.tracks.boxes[0], BLUE) > 0.6
    assert result.tracks.scores[0] == pytest.approx(0.7)
    (result,) = stream.track(frame(1))
    assert len(result.tracks) == 1


def filled(*boxes):
    """Detections that fill their boxes, the best first."""
    masks = tuple(
        Mask(x, y, np.ones((bottom - y, right - x), bool)) for x, y, right, bottom in boxes
    )
    scores = np.linspace(0.9, 0.5, len(boxes), dtype=np.float32)
    return Instances(np.array(boxes, np.float32), scores, masks=masks)


def test_the_released_rules_are_repeated_with_their_accidents(loaded):
    first, second, third = RED, BLUE, (150, 10, 190, 50)
    for released, expected in ((True, [1, 2, 3]), (False, [1, 2, 3, 4])):
        changes = {'released': released, 'detection_every': 1, 'min_area': 20}
        stream = Stream(method(loaded, **changes))
        still = [frame(0)._replace(stamp_ns=(t + 1) * 100_000_000) for t in range(3)]
        (result,) = stream.track(still[0], filled(first, second))
        assert sorted(result.tracks.track_ids.tolist()) == [1, 2]
        given = filled(first, second, third, (220, 10, 260, 50))
        (result,) = stream.track(still[1], given)
        tracks = result.tracks
        assert sorted(tracks.track_ids.tolist()) == expected
        (last,) = np.flatnonzero(tracks.track_ids == 2)
        joined = tracks.masks[last].full(240, 320)[10:50, 150:190].mean() > 0.9
        assert joined == released, 'the first new object joins the last there is'
        assert stream.remove(expected[-1])
        (result,) = stream.track(still[2], filled(first, second, third, (220, 10, 260, 50)))
        assert expected[-1] not in result.tracks.track_ids, 'no id is given twice'
        assert max(result.tracks.track_ids) > expected[-1]


def test_released_rules_give_no_id_beyond_the_limit(loaded):
    boxes = [(30 * i, 10, 30 * i + 20, 40) for i in range(6)]
    for released, seen in ((True, [1, 2]), (False, [3, 4])):
        changes = {'released': released, 'detection_every': 1, 'min_area': 20, 'max_objects': 2}
        stream = Stream(method(loaded, **changes))
        stream.track(frame(0), filled(*boxes[:2]))
        for track_id in (1, 2):
            assert stream.remove(track_id) or True
        (result,) = stream.track(frame(1), filled(*boxes[2:]))
        assert sorted(result.tracks.track_ids.tolist()) == ([] if released else seen)


def test_words_name_what_is_meant(loaded):
    stream, _ = started(loaded)
    with pytest.raises(PromptError, match="nothing that answers to 'elephant' is seen"):
        ask(stream, Prompt(0, text='elephant'))
    with pytest.raises(PromptError, match="no class 'unicorn'"):
        ask(stream, Prompt(0, text='unicorn'))
    for changes, message in (
        ({'find': 'words'}, 'words is empty'),
        ({'find': 'words', 'words': ' . '}, 'words is empty'),
    ):
        with pytest.raises(ConfigError, match=message):
            method(loaded, **changes)
    (result,) = Stream(method(loaded, find='words', words='elephant.')).track(frame(0))
    assert len(result.tracks) == 0


def test_what_was_found_is_forgotten_and_what_was_pointed_at_is_not(loaded):
    stream, _ = started(loaded, find='everything', forget_after=3, detection_every=1000)
    (kept,) = ask(stream, click((215, 150))).track_ids.tolist()
    blank = np.full((240, 320, 3), 128, np.uint8)
    for t in range(1, 9):
        (result,) = stream.track(frame(t)._replace(image=blank))
    figures = stream.figures()
    seen = set(result.tracks.track_ids.tolist())
    assert figures['tracks_in_memory'] <= 1 + len(seen - {kept})
    assert stream.remove(kept)
    assert not stream.remove(kept)


def test_objects_are_limited(loaded):
    stream, _ = started(loaded, max_objects=1)
    ask(stream, click((70, 80)))
    with pytest.raises(PromptError, match='1 objects are tracked, and max_objects is 1'):
        ask(stream, click((215, 150)))
    many = Stream(method(loaded, max_objects=2, min_area=0))
    boxes = np.array([(20 * i, 20, 20 * i + 15, 60) for i in range(8)], np.float32)
    masks = tuple(Mask(int(x), 20, np.ones((40, 15), bool)) for x in boxes[:, 0])
    given = Instances(boxes, np.linspace(0.1, 0.9, 8, dtype=np.float32), masks=masks)
    (result,) = many.track(frame(0), given)
    assert sorted(result.tracks.scores.tolist()) == pytest.approx([0.786, 0.9], abs=0.01)
    assert many.figures()['detections_refused'] == 6


def test_another_size_keeps_objects_and_ids(loaded):
    stream, _ = started(loaded)
    ask(stream, click((215, 150)))
    stream.track(frame(1))
    small = np.ascontiguousarray(frame(2).image[::2, ::2])
    (result,) = stream.track(Frame(small, frame(2).stamp_ns))
    assert result.tracks.track_ids.tolist() == [1]
    assert overlap(2 * result.tracks.boxes[0], shifted(BLUE, 2)) > 0.6
    with pytest.raises(PromptError, match='changed their size'):
        ask(stream, click((70, 80), stamp_ns=frame(1).stamp_ns))


def test_reset_and_a_new_method_with_the_same_objects(loaded):
    stream, _ = started(loaded)
    ask(stream, click((215, 150)))
    stream.move(method(loaded, forget_after=7))
    (result,) = stream.track(frame(1))
    assert result.tracks.track_ids.tolist() == [1]
    assert overlap(result.tracks.boxes[0], shifted(BLUE, 1)) > 0.6
    stream.reset()
    (result,) = stream.track(frame(2))
    assert len(result.tracks) == 0 and stream.finish() == []
    assert ask(stream, click((215, 150))).track_ids.tolist() == [2]


def test_options_that_cannot_change(loaded):
    running = method(loaded)
    running.configure(dataclasses.replace(running.config, detection_every=9))
    assert running.config.detection_every == 9
    with pytest.raises(ConfigError, match='propagator: read when the method is loaded'):
        running.configure(options.build(SamTrackConfig, {'propagator': 'deva'}))
    facts = running.describe()
    assert facts['method'] == 'sam_track' and facts['propagator_model'] == 'nano'
    assert running.prepare(240, 320)
    running.interrupt()
    running.close()
