# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A recording forwards and back: what is compared with what, and the command."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import scene
from PIL import Image
from test_evaluation import objects

from masa_ros import cli
from masa_ros.evaluation.palindrome import Share, compare, palindrome
from masa_ros.streams.stream import Stream
from masa_ros.types import Frame, Result


def test_a_palindrome_of_hand_computed_tracks():
    out = [objects((1, 10, 10), (2, 60, 60)), objects((1, 10, 10)), objects((1, 10, 10))]
    back = [objects((1, 12, 10), (7, 60, 60)), objects(), objects((1, 10, 10))]
    result = compare(out, back, np.array([4.0, 2.0, 0.5]))
    assert (result.ids.kept, result.ids.count) == (2, 3)
    assert (result.seen_again.kept, result.seen_again.count) == (3, 4)
    assert {k: tuple(vars(v).values()) for k, v in result.by_age.items() if v.count} == {
        '0 .. 1 s': (1, 1),
        '2 .. 5 s': (1, 2),
    }
    assert result.by_size['small'].count == 3
    assert result.recall == Share(0, 0)

    def enlarged(frames):
        return [dataclasses.replace(frame, boxes=frame.boxes * 10) for frame in frames]

    result = compare(enlarged(out), enlarged(back), np.array([4.0, 2.0, 0.5]))
    assert (result.recall, result.crowd) == (Share(2, 4), 4 / 3)


class Walk:
    """A method whose object is where the first pixel says, named anew when it is lost.

    Parameters
    ----------
    delay: frames that are awaited before one is answered.

    """

    name, options, accepts, device = 'walk', object, frozenset(), 'cpu'

    def __init__(self, delay=0, lost=()):
        self.delay, self.lost, self.shown, self.open, self.track_id = delay, lost, [], [], 1

    def encode(self, frames):
        return [int(frame.image[0, 0, 0]) for frame in frames]

    def session(self, after=None):
        return self

    def update(self, frame, encoded, given=None):
        self.shown.append((frame.stamp_ns, encoded))
        self.track_id += frame.stamp_ns in self.lost
        one = objects((self.track_id, encoded, 10))
        self.open.append(Result(frame, one, {}))
        return [self.open.pop(0)] if len(self.open) > self.delay else []

    def finish(self):
        waiting, self.open = self.open, []
        return waiting


RECORDING = [Frame(np.full((60, 60, 3), i, np.uint8), 100 + i * 10) for i in range(4)]


@pytest.mark.parametrize('delay', [0, 2, 50])
def test_the_way_back_goes_on_in_time(delay):
    walk = Walk(delay)
    result = palindrome(RECORDING, Stream(walk))
    stamps = [(100, 0), (110, 1), (120, 2), (130, 3), (140, 2), (150, 1), (160, 0)]
    assert walk.shown == stamps
    assert (result.ids, result.seen_again) == (Share(3, 3), Share(3, 3))
    assert result.frames == 4


@pytest.mark.parametrize('delay', [0, 3])
def test_a_track_lost_on_the_way_back_is_counted(delay):
    # From frame 1 on the way back the object has another id: only frame 2 keeps it.
    result = palindrome(RECORDING, Stream(Walk(delay, lost=(150,))))
    assert (result.ids, result.seen_again) == (Share(1, 3), Share(3, 3))


def test_a_real_palindrome_runs(tmp_path, seeded_weights, capsys):
    (tmp_path / 'frames').mkdir()
    for i in range(4):
        Image.fromarray(scene(3 * i)).save(tmp_path / f'frames/{i}.png')
    arguments = ['evaluate', tmp_path / 'frames', '--palindrome', '--weights', seeded_weights]
    output = tmp_path / 'scores.json'
    assert cli.main([str(a) for a in [*arguments, '--output', output]]) == 0
    result = json.loads(output.read_text())
    assert result['frames'] == 4
    assert result['ids']['kept'] > 0.5 * result['seen_again']['count'] > 5
    assert f'of {result["seen_again"]["count"]}' in capsys.readouterr().out
    # Nothing is begun, so that nothing is seen: the options of the method are heard.
    silent = [*arguments, '--output', output, '--init-score-thr', 1]
    assert cli.main([str(a) for a in silent]) == 0
    assert json.loads(output.read_text())['seen_again']['count'] == 0
    assert cli.main([str(a) for a in [*arguments, '--max-frames', 1]]) == 2
