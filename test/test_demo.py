# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The demo: where it clicks, and that what it clicks is followed through a real node."""

import itertools
import json

import numpy as np
import pytest

from masa_ros import cli
from masa_ros.demo import scene
from masa_ros.demo.pointing import click, innermost
from masa_ros.recordings.prompts import RecordedPrompt
from masa_ros.recordings.recorder import Recorder
from masa_ros.recordings.sources import frames_of, open_source
from masa_ros.recordings.tracks_file import read_tracks
from masa_ros.tracking.geometry import ious
from masa_ros.types import Frame, Instances, Mask, Prompt, Result


def test_the_innermost_point_of_a_box_is_its_middle():
    assert innermost(Mask(10, 20, np.ones((5, 31), bool))).tolist() == [25.5, 22.5]
    assert click(Mask(0, 0, np.ones((1, 1), bool))).points.tolist() == [[0.5, 0.5]]


def test_the_innermost_point_lies_on_the_object_far_from_its_rim():
    ring = np.zeros((60, 60), bool)
    ring[:, :] = np.hypot(*(np.indices((60, 60)) - 29.5)) < 29
    ring[np.hypot(*(np.indices((60, 60)) - 29.5)) < 15] = False
    x, y = (innermost(Mask(100, 200, ring)) - (100, 200)).astype(int)
    assert ring[y - 5 : y + 6, x - 5 : x + 6].all(), 'the middle of the ring is not on it'


def test_prompts_are_shown_in_the_video_for_a_second(tmp_path):
    points = np.array([(30, 40), (130, 40)], np.float32)
    box = np.array((40, 80, 120, 110), np.float32)
    shown = Prompt(0, points=points, positive=np.array([True, False]), box=box)
    prompts = [RecordedPrompt(1, shown)]
    grey = np.full((120, 160, 3), 90, np.uint8)
    with Recorder(tmp_path, 'none', 2.0, prompts=prompts) as recorder:
        for number in range(4):
            frame = Frame(grey, number * 500_000_000)
            recorder.add(number, '', Result(frame, Instances.empty(), {}))
    video = open_source(tmp_path / 'overlay.mp4')
    images = [frame.image.astype(int) for frame in frames_of(video)]
    for image, there in zip(images, (False, True, True, False), strict=True):
        (right, wrong), line = image[40, (30, 130)], image[80, 80]
        assert (right[1] > right[0] + 60) == there
        assert (wrong[0] > wrong[1] + 60) == there
        assert (line.min() > 160) == there


@pytest.mark.ros
def test_what_is_clicked_is_followed_through_a_node(tmp_path, monkeypatch):
    pytest.importorskip('trackeval')
    player = pytest.importorskip('masa_ros.nodes.player')
    monkeypatch.setattr(player, '_QUIET_SECONDS', 60.0)  # on a slow machine too
    actors = scene.ACTORS[1], scene.ACTORS[4]
    some = list(itertools.islice(scene.render(actors), 3))
    monkeypatch.setattr(scene, 'render', lambda: iter(some))
    monkeypatch.setattr(scene, 'FRAMES', len(some))
    arguments = ['demo', '--method', 'sam_track', '--device', 'cpu', '--output', str(tmp_path)]
    assert cli.main(arguments) == 0
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert [row['track_id'] for row in summary['prompts']] == [1, 2]
    assert not any(row['problem'] for row in summary['prompts'])
    *_, last = read_tracks(tmp_path / 'tracks.json')
    (_, true) = some[-1]
    assert last.index == true.index
    assert sorted(last.instances.track_ids) == true.instances.track_ids.tolist()
    order = np.argsort(last.instances.track_ids)
    overlap = ious(last.instances.boxes[order], true.instances.boxes)
    assert overlap.diagonal().min() > 0.6
