# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Recordings with depth: positions in tracks.json and in the overlay, and their errors."""

import json

import cv2
import numpy as np
import pytest
from conftest import scene
from rosbags.rosbag2 import Writer

from masa_ros import cli, overlay
from masa_ros.errors import ImageError, SourceError
from masa_ros.recordings.bags import IMAGE_TYPE, typestore
from masa_ros.recordings.depth import DepthFiles, FolderDepth, open_depth, read_camera
from masa_ros.recordings.sources import open_source
from masa_ros.recordings.tracks_file import read_tracks
from masa_ros.types import Instances

FOCAL, NEAR, BEHIND, COUNT = 300.0, 2.0, 5.0, 4
K = [FOCAL, 0, 159.5, 0, FOCAL, 119.5, 0, 0, 1]
EVEN = (0, 0, 0, 1)
TF_TYPE = 'tf2_msgs/msg/TFMessage'
WHERE = np.array([(70 - 159.5) / FOCAL * NEAR, (80 - 119.5) / FOCAL * NEAR, NEAR])
INFO = {'height': 240, 'width': 320, 'k': K, 'd': [0, 0, 0, 0, 0]}


def metres(shift=0, apart=0.0):
    """Depth of ``scene``, by a camera that stands so many metres to the right of the other."""
    rows, columns = np.indices((240, 320))
    disc = (columns - 70 - shift + apart / NEAR * FOCAL) ** 2 + (rows - 80) ** 2 <= 34**2
    return np.where(disc, NEAR, BEHIND).astype(np.float32)


@pytest.fixture(scope='module')
def recording(tmp_path_factory):
    """Folders of images and of depth, calibration, and who is followed."""
    root = tmp_path_factory.mktemp('space')
    for name in ('frames', 'depth'):
        (root / name).mkdir()
    for i in range(COUNT):
        cv2.imwrite(str(root / f'frames/{i}.png'), scene(4 * i)[:, :, ::-1])
        cv2.imwrite(str(root / f'depth/{i}.png'), (metres(4 * i) * 1000).astype(np.uint16))
    (root / 'camera.json').write_text(json.dumps(INFO))
    asked = {'frame': 0, 'box': [36, 46, 105, 115]}
    document = {'format': 'masa_ros.prompts/1', 'prompts': [asked]}
    (root / 'prompts.json').write_text(json.dumps(document))
    return root


def replay(root, source, out, *more):
    arguments = ['replay', str(source), '--method', 'sam_track', '--device', 'cpu']
    arguments += ['--find', 'nothing', '--prompts', str(root / 'prompts.json')]
    return cli.main([*arguments, '--output', str(out), *more])


def is_right(out):
    frames = read_tracks(out / 'tracks.json')
    assert len(frames) == COUNT
    for i, frame in enumerate(frames):
        ((position, covariance),) = frame.positions.values()
        moved = WHERE + np.array([4 * i / FOCAL * NEAR, 0, 0])
        np.testing.assert_allclose(position, moved, atol=0.03)
        assert (np.linalg.eigvalsh(covariance) > 0).all()
    return frames


def test_a_pair_of_folders_gives_positions_and_their_errors(recording, tmp_path, capsys):
    more = ('--depth', str(recording / 'depth'), '--camera-info', str(recording / 'camera.json'))
    assert replay(recording, recording / 'frames', tmp_path, *more) == 0
    is_right(tmp_path)
    document = json.loads((tmp_path / 'tracks.json').read_text())
    (first,) = document['frames'][0]['instances']
    assert first['space']['reason'] == 'none' and first['space']['points'] > 2000
    np.testing.assert_allclose(first['space']['box_size'][:2], 69 / FOCAL * NEAR, atol=0.04)
    # The truth is of the same form.
    truth = tmp_path / 'truth.json'
    for i, frame in enumerate(document['frames']):
        (instance,) = frame['instances']
        x, y, z = WHERE + np.array([4 * i / FOCAL * NEAR, 0, 0])
        instance['space'] = {'position': [x, y, z], 'covariance': [0.0] * 9}
    truth.write_text(json.dumps(document))
    figures = tmp_path / 'figures.json'
    command = ['evaluate', str(tmp_path / 'tracks.json'), '--ground-truth', str(truth)]
    assert cli.main([*command, '--output', str(figures)]) == 0
    positions = json.loads(figures.read_text())['positions']
    assert positions['objects'] == COUNT and positions['found'] == 1
    assert positions['p95_m'] < 0.03 and positions['beyond_covariance'] == 0
    assert f'positions of {COUNT} objects' in capsys.readouterr().out


def bag(path, wrong_stamps=0, transforms=(), apart=0.0):
    """A bag of the recording; ``apart``: the depth camera stands so far to the right.

    ``transforms``: second, parent, child, shift and quaternion; without a second on /tf_static.
    """
    store = typestore()
    types = store.types

    def header(i, late=0, frame='camera'):
        stamp = types['builtin_interfaces/msg/Time'](sec=1 + i, nanosec=late)
        return types['std_msgs/msg/Header'](stamp=stamp, frame_id=frame)

    def transform(second, parent, child, shift, turn):
        moved = types['geometry_msgs/msg/Transform'](
            types['geometry_msgs/msg/Vector3'](*map(float, shift)),
            types['geometry_msgs/msg/Quaternion'](*map(float, turn)),
        )
        head = header((second or 1) - 1, frame=parent)
        stamped = types['geometry_msgs/msg/TransformStamped'](head, child, moved)
        return types[TF_TYPE]([stamped])

    def image(pixels, encoding, head):
        return types[IMAGE_TYPE](
            **{'header': head, 'height': 240, 'width': 320, 'encoding': encoding},
            **{'is_bigendian': 0, 'step': pixels.nbytes // 240},
            data=np.frombuffer(pixels.tobytes(), np.uint8),
        )

    region = types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
    with Writer(path, version=9) as writer:
        kinds = {
            '/camera/color/image_raw': IMAGE_TYPE,
            '/camera/depth/image': IMAGE_TYPE,
            '/camera/color/camera_info': 'sensor_msgs/msg/CameraInfo',
            '/camera/depth/camera_info': 'sensor_msgs/msg/CameraInfo',
            **({'/tf': TF_TYPE, '/tf_static': TF_TYPE} if transforms else {}),
        }
        made = {t: writer.add_connection(t, kind, typestore=store) for t, kind in kinds.items()}

        def write(topic, message, at):
            raw = store.serialize_cdr(message, kinds[topic])
            writer.write(made[topic], at, raw)

        info = types['sensor_msgs/msg/CameraInfo'](
            **{'header': header(0), 'height': 240, 'width': 320, 'distortion_model': 'plumb_bob'},
            **{'d': np.zeros(5), 'k': np.array(K, float), 'r': np.eye(3).ravel()},
            **{'p': np.zeros(12), 'binning_x': 0, 'binning_y': 0, 'roi': region},
        )
        for which in ('color', 'depth'):
            write(f'/camera/{which}/camera_info', info, 1)
        for each in transforms:
            topic = '/tf' if each[0] else '/tf_static'
            write(topic, transform(*each), (each[0] or 1) * 10**9)
        for i in range(COUNT):
            at = (i + 1) * 10**9
            head = header(i, wrong_stamps or 5_000_000, 'depth' if apart else 'camera')
            depth = image(metres(4 * i, apart), '32FC1', head)
            picture = image(scene(4 * i), 'rgb8', header(i))
            # Depth may be recorded before its image and after.
            first, second = ('depth/image', depth), ('color/image_raw', picture)
            for n, (topic, message) in enumerate((first, second) if i % 2 else (second, first)):
                write(f'/camera/{topic}', message, at + n)


def test_a_bag_with_a_depth_topic_gives_the_same(recording, tmp_path):
    bag(tmp_path / 'bag')
    more = ('--topic', '/camera/color/image_raw', '--depth', '/camera/depth/image')
    assert replay(recording, tmp_path / 'bag', tmp_path / 'out', *more) == 0
    is_right(tmp_path / 'out')


def moving_away(seconds):
    """The camera goes to the left as fast as the disc is seen to go right: that stands still."""
    return -4 / FOCAL * NEAR * seconds


def stands_still(out, within):
    document = json.loads((out / 'tracks.json').read_text())
    places = [frame['instances'][0]['space']['target_position'] for frame in document['frames']]
    np.testing.assert_allclose(places, np.tile(places[0], (COUNT, 1)), atol=0.03)
    for frame in document['frames'][1:]:
        (instance,) = frame['instances']
        assert np.linalg.norm(instance['space']['velocity']) < within, frame
    return json.loads((out / 'summary.json').read_text())['events']


def test_depth_of_another_camera_in_a_bag_and_a_camera_that_moves(recording, tmp_path):
    turn = (0.5, -0.5, 0.5, -0.5)  # the optical frame looks along x
    transforms = [
        (0, 'base', 'camera', (0, 0, 1), turn),
        (0, 'camera', 'depth', (0.1, 0, 0), EVEN),
    ]
    for second in range(0, COUNT + 3):
        y = -moving_away(second - 1)  # y of the base is to its left
        transforms.append((second or 1, '/odom', 'base', (2, y, 0), EVEN))
    bag(tmp_path / 'bag', transforms=transforms, apart=0.1)
    more = ['--topic', '/camera/color/image_raw', '--depth', '/camera/depth/image']
    more += ['--no-space-registered', '--space-target-frame', 'odom']
    assert replay(recording, tmp_path / 'bag', tmp_path / 'out', *more) == 0
    is_right(tmp_path / 'out')
    assert not stands_still(tmp_path / 'out', 0.01), 'it is seen to move by 0.027 m/s'
    # Without what connects the two cameras there is a reason instead of a position.
    bag(tmp_path / 'cut', transforms=transforms[:1] + transforms[2:], apart=0.1)
    assert replay(recording, tmp_path / 'cut', tmp_path / 'none', *more) == 0
    document = json.loads((tmp_path / 'none/tracks.json').read_text())
    reasons = {i['space']['reason'] for f in document['frames'] for i in f['instances']}
    assert reasons == {'no_transform'}


def test_poses_of_the_camera_come_from_files_too(recording, tmp_path):
    seconds = [i / 10 for i in range(COUNT)]  # the folder has no stamps: ten images a second
    lines = ['# seconds x y z qx qy qz qw']
    folder = tmp_path / 'poses'
    folder.mkdir()
    for i, second in enumerate(seconds):
        x = moving_away(i)
        lines.append(f'{second:.9f} {x} 0 0 0 0 0 1')
        matrix = np.eye(4)
        matrix[0, 3] = x
        np.savetxt(folder / f'{i}.pose.txt', matrix)
    (tmp_path / 'trajectory.txt').write_text('\n'.join(lines))
    depth = ['--depth', str(recording / 'depth'), '--camera-info', str(recording / 'camera.json')]
    for where in ('trajectory.txt', 'poses'):
        out = tmp_path / f'out_{where}'
        more = [*depth, '--poses', str(tmp_path / where)]
        assert replay(recording, recording / 'frames', out, *more) == 0
        is_right(out)
        assert not stands_still(out, 0.05), 'it is seen to move by 0.27 m/s'


def test_a_folder_of_another_cameras_depth_says_where_that_stands(recording, tmp_path):
    (tmp_path / 'depth').mkdir()
    for i in range(COUNT):
        pixels = (metres(4 * i, 0.1) * 1000).astype(np.uint16)
        cv2.imwrite(str(tmp_path / f'depth/{i}.png'), pixels)
    to_image = np.eye(4)
    to_image[0, 3] = 0.1
    (tmp_path / 'depth.json').write_text(json.dumps(INFO | {'to_image': to_image.tolist()}))
    more = ['--depth', str(tmp_path / 'depth'), '--camera-info', str(recording / 'camera.json')]
    info = ['--depth-info', str(tmp_path / 'depth.json')]
    assert replay(recording, recording / 'frames', tmp_path / 'out', *more, *info) == 0
    is_right(tmp_path / 'out')


@pytest.mark.parametrize(
    'more, words',
    [
        (['--no-space-registered'], 'needs --depth-info'),
        (['--depth-info', 'alone.json'], 'to_image in --depth-info'),
        (['--depth-info', 'none.json'], 'cannot be read'),
        (['--depth-info', 'odd.json'], 'no camera_info'),
        (['--space-target-frame', 'odom'], '--poses'),
        (['--poses', 'none.txt'], 'no trajectory'),
        (['--poses', 'odd.json'], 'no trajectory'),
        (['--poses', 'short.txt'], 'on every line'),
        (['--poses', 'zero.txt'], 'no rotation'),
        (['--poses', 'empty'], 'holds no poses'),
    ],
)
def test_what_says_nothing_of_cameras_is_refused(recording, tmp_path, capsys, more, words):
    (tmp_path / 'alone.json').write_text(json.dumps(INFO))
    (tmp_path / 'odd.json').write_text(json.dumps(INFO | {'to_image': [1, 2]}))
    (tmp_path / 'short.txt').write_text('1 2 3\n4 5 6\n')
    (tmp_path / 'zero.txt').write_text('1 0 0 0 0 0 0 0\n')
    (tmp_path / 'empty').mkdir()
    more = [str(tmp_path / word) if '.' in word or word == 'empty' else word for word in more]
    depth = ['--depth', str(recording / 'depth'), '--camera-info', str(recording / 'camera.json')]
    assert replay(recording, recording / 'frames', tmp_path / 'out', *depth, *more) == 2
    assert words in capsys.readouterr().err


def test_poses_beside_no_depth_are_refused(recording, tmp_path, capsys):
    assert replay(recording, recording / 'frames', tmp_path / 'out', '--poses', 'x.txt') == 2
    assert '--poses says something only beside --depth' in capsys.readouterr().err


def test_depth_out_of_step_is_counted_and_the_tracks_are_the_same(recording, tmp_path):
    bag(tmp_path / 'bag', wrong_stamps=300_000_000)
    more = ('--topic', '/camera/color/image_raw')
    depth = ('--depth', '/camera/depth/image')
    assert replay(recording, tmp_path / 'bag', tmp_path / 'with', *more, *depth) == 0
    assert replay(recording, tmp_path / 'bag', tmp_path / 'without', *more) == 0
    summary = json.loads((tmp_path / 'with/summary.json').read_text())
    assert summary['events'] == {'space_no_depth': COUNT}
    ours, theirs = (read_tracks(tmp_path / name / 'tracks.json') for name in ('with', 'without'))
    assert [f.instances for f in ours] == [f.instances for f in theirs]
    assert not any(frame.positions for frame in ours)


def test_a_folder_goes_by_names_where_they_are_the_same_and_by_order_else(tmp_path):
    folder = tmp_path / 'depth'
    folder.mkdir()
    np.save(folder / 'b.npy', np.full((2, 2), 3.0, np.float32))
    cv2.imwrite(str(folder / 'a.png'), np.full((2, 2), 1500, np.uint16))
    (tmp_path / 'camera.json').write_text(json.dumps(INFO))
    camera = read_camera(tmp_path / 'camera.json')
    named = FolderDepth(folder, camera, ['b.jpg', 'c.jpg'])
    assert named.at(0, 'b.jpg', 0).depth[0, 0] == 3 and named.at(1, 'c.jpg', 0) is None
    ordered = FolderDepth(folder, camera, ['x.jpg', 'y.jpg', 'z.jpg'])
    assert ordered.at(0, 'x.jpg', 0).depth[0, 0] == pytest.approx(1.5)
    assert ordered.at(1, 'y.jpg', 0).depth[0, 0] == 3 and ordered.at(2, 'z.jpg', 0) is None
    (folder / 'a.png').write_bytes(b'no picture')
    with pytest.raises(ImageError, match=r'a\.png'):
        ordered.at(0, 'x.jpg', 0)


@pytest.mark.parametrize(
    'where, camera, words',
    [
        ('depth', None, 'camera-info'),
        ('depth', {'height': 240}, 'no camera_info'),
        ('depth', INFO | {'k': [0] * 9}, 'not calibrated'),
        ('/no/topic', INFO, 'no folder of depth'),
    ],
)
def test_what_cannot_be_used_says_so(recording, tmp_path, where, camera, words):
    file = None
    if camera is not None:
        file = tmp_path / 'camera.json'
        file.write_text(json.dumps(camera))
    path = str(recording / where) if where == 'depth' else where
    with pytest.raises(SourceError, match=words):
        open_depth(open_source(recording / 'frames'), DepthFiles(path, file), 10**7, 0.0)


def test_a_topic_that_is_no_depth_says_so(tmp_path):
    bag(tmp_path / 'bag')
    source = open_source(tmp_path / 'bag', '/camera/color/image_raw')
    with pytest.raises(SourceError, match='no depth topic'):
        open_depth(source, DepthFiles('/camera/color/camera_info'), 10**7, 0.0)


def test_distances_stand_in_the_overlay():
    boxes = np.array([[100, 100, 200, 200]], np.float32)
    tracks = Instances(boxes, track_ids=np.array([7]), states=np.array([1], np.uint8))
    plain = overlay.draw(scene(), tracks)
    noted = overlay.draw(scene(), tracks, notes={7: '2.05 m'})
    other = overlay.draw(scene(), tracks, notes={8: '2.05 m'})
    assert (plain == other).all()
    changed = np.argwhere((plain != noted).any(axis=2))
    assert len(changed) and changed[:, 0].max() <= 101, 'only the caption'
