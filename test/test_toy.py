# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A further method: one folder (test/toy) and one line, and node and replay run it."""

import itertools
import json
import re

import cv2
import numpy as np
import pytest
from conftest import scene
from ros_harness import Harness
from toy import Toy

from masa_ros import cli
from masa_ros.methods import METHODS
from masa_ros.recordings.tracks_file import read_tracks


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(METHODS, 'toy', Toy)


@pytest.mark.ros
def test_the_node_answers_for_the_frame_before():
    harness = Harness({'method': 'toy', 'tolerance': 30})
    try:
        harness.wait_until_tracking()
        sent = [harness.image(scene(4 * i)) for i in range(4)]
        harness.images.publish(sent[0])
        (camera,) = harness.cameras
        assert harness.until(lambda: camera.statistics.processed == 1) and not harness.tracks
        for before, message in itertools.pairwise(sent):
            answer = harness.exchange(message)
            assert answer.header == before.header
            assert (answer.model, len(answer.instances)) == ('toy', 1)
            assert answer.instances[0].class_name == 'colour'
        assert harness.until(lambda: harness.report('colours') == '1')
        harness.node.trigger_deactivate()
        assert harness.until(lambda: len(harness.tracks) == 4), 'the last one is not lost'
        assert harness.tracks[-1].header == sent[-1].header
    finally:
        harness.close()


@pytest.fixture
def frames(tmp_path):
    folder = tmp_path / 'frames'
    folder.mkdir()
    for i in range(5):
        cv2.imwrite(str(folder / f'{i}.png'), scene(4 * i)[:, :, ::-1])
    return folder


def replay(frames, tmp_path, *options):
    output = tmp_path / 'out'
    code = cli.main(['replay', str(frames), '--method', 'toy', '--output', str(output), *options])
    return code, output


def test_replay_runs_it_and_its_options(frames, tmp_path):
    code, output = replay(frames, tmp_path, '--tolerance', '20')
    assert code == 0
    tracked = read_tracks(output / 'tracks.json')
    assert [f.index for f in tracked] == list(range(5)), 'the last frame is answered too'
    assert [f.instances.track_ids.tolist() for f in tracked] == [[1]] * 5
    lefts = [f.instances.boxes[0, 0] for f in tracked]
    assert np.diff(lefts).tolist() == [4] * 4
    assert all(f.class_names == {-1: 'colour'} for f in tracked)


def written(path, *prompts):
    path.write_text(json.dumps({'format': 'masa_ros.prompts/1', 'prompts': prompts}))
    return str(path)


def test_prompts_become_tracks_from_their_frame_on(frames, tmp_path):
    prompts = written(
        tmp_path / 'prompts.json',
        {'frame': 1, 'box': [190, 120, 240, 180]},
        {'frame': 3, 'points': [[90, 180], [0, 0]], 'positive': [True, False]},
        {'frame': 3, 'points': [[-5, 0]]},
        {'frame': 77, 'points': [[9, 9]]},
    )
    code, output = replay(frames, tmp_path, '--prompts', prompts, '--no-red')
    assert code == 0
    ids = [f.instances.track_ids.tolist() for f in read_tracks(output / 'tracks.json')]
    assert ids == [[], [1], [1], [1, 2], [1, 2]]
    rows = json.loads((output / 'summary.json').read_text())['prompts']
    assert [(row['index'], row['track_id']) for row in rows] == [(0, 1), (1, 2), (2, 0), (3, 0)]
    assert 'outside' in rows[2]['problem'] and 'no image' in rows[3]['problem']


@pytest.mark.parametrize(
    'prompt, words',
    [
        ({'frame': 0, 'text': 'a cup'}, 'prompt 0: the method toy takes box, point'),
        ({'frame': 0}, 'prompt 0: .*neither points, box, mask nor text'),
        ({'frame': -1, 'points': [[1, 1]]}, 'frame is -1'),
        ({'frame': 0, 'points': [[1]]}, 'prompt 0'),
        ({'frame': 0, 'points': [[1, 1]], 'positive': []}, '1 points with 0 signs'),
        ({'frame': 0, 'points': [[1, 1]], 'positive': [1]}, 'true and false'),
        ({'frame': 0, 'box': [5, 5, 5, 9]}, 'no area'),
        ({'frame': 0, 'box': [1, 1, float('nan'), 9]}, 'not finite'),
        ({'frame': 0, 'mask': {'size': [4, 4], 'counts': [3]}}, 'prompt 0'),
        ({'frame': 0, 'bax': [1, 1, 2, 2]}, 'bax means nothing'),
        ([], 'prompt 0'),
    ],
    ids=str,
)
def test_a_prompt_that_means_nothing_is_named(frames, tmp_path, capsys, prompt, words):
    prompts = written(tmp_path / 'prompts.json', prompt)
    assert replay(frames, tmp_path, '--prompts', prompts)[0] == 2
    assert re.search(words, capsys.readouterr().err)
