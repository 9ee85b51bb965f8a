# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where on an object its points are: over real DDS, and in tracks.json."""

import contextlib
import json

import cv2
import numpy as np
import pytest
from bodies import BLUE, frame
from conftest import scene
from masa_ros.srv import AddObject
from rclpy.qos import qos_profile_sensor_data
from ros_harness import Harness, call
from sensor_msgs.msg import PointCloud2

from masa_ros import cli
from masa_ros.errors import SourceError
from masa_ros.nodes import messages
from masa_ros.recordings.tracks_file import read_tracks
from masa_ros.types import Instances, TrackedPoints

KINDS = {1: 'i1', 2: 'u1', 6: 'u4', 7: 'f4'}


def read(cloud):
    """The points of a cloud by what it says of itself."""
    names = [field.name for field in cloud.fields]
    layout = {
        'names': names,
        'formats': [KINDS[field.datatype] for field in cloud.fields],
        'offsets': [field.offset for field in cloud.fields],
        'itemsize': cloud.point_step,
    }
    assert cloud.row_step == cloud.width * cloud.point_step == len(cloud.data)
    return np.frombuffer(bytes(cloud.data), np.dtype(layout))


def test_points_become_a_cloud_in_pixels():
    followed = TrackedPoints(
        np.float32([(1.5, 2.5), (3, 4)]), np.array([True, False]), np.array([True, True])
    )
    beside = TrackedPoints(np.float32([(9, 8)]), np.array([True]), np.array([False]))
    boxes = np.zeros((3, 4), np.float32)
    ids = np.array([7, 8, 2**32 + 5])
    tracks = Instances(boxes, track_ids=ids, points=(followed, None, beside))
    cloud = messages.tracks_to_points(tracks, messages.header_of(frame(0)))
    assert cloud.header.stamp == messages.ns_to_stamp(frame(0).stamp_ns)
    points = read(cloud)
    assert points['x'].tolist() == [1.5, 3, 9] and points['y'].tolist() == [2.5, 4, 8]
    assert not points['z'].any()
    assert points['track_id'].tolist() == [7, 7, 5]
    assert points['visible'].tolist() == [1, 0, 1] and points['positive'].tolist() == [1, 1, 0]
    none = messages.tracks_to_points(Instances.empty(), messages.header_of(frame(0)))
    assert none.width == 0 and len(none.fields) == 6 and len(read(none)) == 0


@pytest.mark.ros
def test_points_are_published_to_who_listens(monkeypatch):
    with contextlib.closing(Harness({'method': 'sam_pt', 'device': 'cpu'})) as node:
        node.wait_until_tracking()
        made = []
        build = messages.tracks_to_points
        monkeypatch.setattr(
            messages, 'tracks_to_points', lambda *a: made.append(build(*a)) or made[-1]
        )
        assert node.exchange(node.image(scene()))
        request = AddObject.Request(box=[float(v) for v in BLUE])
        answer = call(node, AddObject, '/masa_tracker/add_object', request)
        assert answer.success, answer.message
        assert node.exchange(node.image(scene()))
        assert not made, 'nobody listens'
        came = []
        node.peer.create_subscription(
            PointCloud2, '/masa_tracker/points', came.append, qos_profile_sensor_data
        )
        outputs = node.cameras[0].outputs
        assert node.until(outputs._points.get_subscription_count)
        tracks = node.exchange(node.image(scene(1)))
        assert node.until(lambda: came)
        assert came[0].header == tracks.header
        points = read(came[0])
        (track,) = tracks.instances
        assert len(points) == 9 and set(points['track_id'].tolist()) == {track.track_id}
        on = points[(points['visible'] & points['positive']) > 0]
        assert len(on) > 2
        assert (abs(on['x'] - (track.x_min + track.x_max) / 2) < 40).all()


def test_a_recording_has_the_points_where_they_are_wanted(tmp_path):
    frames = tmp_path / 'frames'
    frames.mkdir()
    for t in range(3):
        image = cv2.cvtColor(frame(t).image, cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(frames / f'{t}.png'), image)
    prompts = tmp_path / 'prompts.json'
    asked = {'frame': 0, 'box': list(BLUE)}
    prompts.write_text(json.dumps({'format': 'masa_ros.prompts/1', 'prompts': [asked]}))
    for wanted in (False, True):
        out = tmp_path / str(wanted)
        arguments = ['replay', str(frames), '--method', 'sam_pt', '--prompts', str(prompts)]
        arguments += ['--output', str(out), '--no-overlay', '--device', 'cpu']
        assert cli.main(arguments + ['--points'] * wanted) == 0
        last = read_tracks(out / 'tracks.json')[-1].instances
        assert last.track_ids.tolist() == [1]
        assert (last.points is not None) == wanted
    assert last.points[0].points.shape == (9, 2) and last.points[0].positive.sum() == 8
    document = json.loads((out / 'tracks.json').read_text())
    document['frames'][-1]['instances'][0]['points']['visible'].pop()
    (out / 'tracks.json').write_text(json.dumps(document))
    with pytest.raises(SourceError, match='flag'):
        read_tracks(out / 'tracks.json')
