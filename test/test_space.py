# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Positions in space from masks and depth, on scenes whose depth is known exactly."""

import contextlib
import importlib
import struct
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from masa_ros.errors import ImageError
from masa_ros.masks import crop
from masa_ros.space import depth as depths
from masa_ros.space.cameras import Camera
from masa_ros.space.config import EstimateConfig, FilterConfig
from masa_ros.space.estimate import Estimate, Reason, estimate, mask_of_box
from masa_ros.space.motion import Motions
from masa_ros.space.rvl import decode as decode_rvl
from masa_ros.types import Mask

MATRIX = np.array([[300.0, 0, 159.5], [0, 310.0, 119.5], [0, 0, 1]])
CAMERA = Camera((240, 320), MATRIX)
FISHEYE = np.array([0.05, -0.01, 0.002, 0.0])
CHI2_95 = 7.815  # of three
MODELS = [
    ('plumb_bob', [0.1, -0.05, 0.001, -0.002, 0.01]),
    ('rational_polynomial', [0.2, 0.1, 0.001, -0.001, 0.01, 0.3, 0.05, 0.02]),
    ('equidistant', FISHEYE),
]


def image(pixels, encoding, big=False, padding=0):
    lines = pixels.astype(pixels.dtype.newbyteorder('>' if big else '<'))
    rows = [line.tobytes() + bytes(padding) for line in lines]
    return SimpleNamespace(
        **{'encoding': encoding, 'height': pixels.shape[0], 'width': pixels.shape[1]},
        **{'is_bigendian': big, 'step': len(rows[0]), 'data': b''.join(rows)},
    )


def rvl(pixels):
    """RVL as its paper describes it, number by number."""
    numbers, before, rest = [], 0, pixels.ravel().astype(int).tolist()
    while rest:
        empty = next((i for i, value in enumerate(rest) if value), len(rest))
        full = next((i for i, value in enumerate(rest[empty:]) if not value), len(rest) - empty)
        numbers += [empty, full]
        for value in rest[empty : empty + full]:
            off, before = value - before, value
            numbers.append(2 * off if off >= 0 else -2 * off - 1)
        rest = rest[empty + full :]
    nibbles = ''
    for number in numbers:
        while number > 7:
            nibbles += f'{8 + number % 8:x}'
            number //= 8
        nibbles += f'{number:x}'
    nibbles += '0' * (-len(nibbles) % 8)
    words = [int(nibbles[i : i + 8], 16) for i in range(0, len(nibbles), 8)]
    return struct.pack(f'<II{len(words)}I', *pixels.shape[::-1], *words)


def compressed(pixels, kind, parameters=(0.0, 0.0), form='png'):
    data = rvl(pixels) if form == 'rvl' else cv2.imencode('.png', pixels)[1].tobytes()
    data = struct.pack('<iff', 0, *parameters) + data
    return SimpleNamespace(format=f'{kind}; compressedDepth {form}', data=data)


def disc(centre, radius, shape=CAMERA.shape):
    rows, columns = np.indices(shape)
    return crop((columns - centre[0]) ** 2 + (rows - centre[1]) ** 2 < radius**2)


# Cameras


@pytest.mark.parametrize('model, distortion', MODELS)
def test_rays_and_pixels_of_every_model_are_inverse(model, distortion):
    camera = Camera((240, 320), MATRIX, np.array(distortion), model)
    pixels = np.array([(0.5, 0.5), (160, 120), (319.5, 239.5), (30, 200)])
    rays = camera.rays(pixels)
    assert not np.allclose(rays, Camera((240, 320), MATRIX).rays(pixels), atol=1e-3)
    far = np.array([[1.0], [2.0], [5.0], [0.3]])
    points = np.hstack((rays, np.ones((4, 1)))) * far
    np.testing.assert_allclose(camera.seen_at(points), pixels, atol=0.05)
    np.testing.assert_allclose(camera.grid[0, 0], rays[0], atol=1e-6)
    assert camera.grid.shape == (240, 320, 2)


@pytest.mark.parametrize(
    'matrix, distortion, model, words',
    [
        (MATRIX * np.nan, [], 'plumb_bob', 'finite'),
        (np.zeros((3, 3)), [], 'plumb_bob', 'not calibrated'),
        (MATRIX, [0.1], 'mirror', 'mirror'),
        (MATRIX, [np.inf], 'plumb_bob', 'finite'),
    ],
)
def test_what_is_no_calibration_is_refused(matrix, distortion, model, words):
    with pytest.raises(ValueError, match=words):
        Camera((240, 320), matrix, np.array(distortion), model)


# Depth


@pytest.mark.parametrize('big', [False, True])
@pytest.mark.parametrize('padding', [0, 4, 3])
def test_both_encodings_are_read_in_metres(big, padding):
    metres = np.array([[0, 1.5, 2.25], [0.5, 40, 65.535]], np.float32)
    whole = depths.depth_from_image(
        image((metres * 1000).round().astype(np.uint16), '16UC1', big, padding)
    )
    np.testing.assert_allclose(whole, metres, atol=1e-5)
    assert whole.dtype == np.float32
    metres[0, 0] = np.nan
    floats = depths.depth_from_image(image(metres, '32FC1', big, padding))
    np.testing.assert_array_equal(floats, metres)
    tenths = depths.depth_from_image(image(metres * 10000, '32FC1', big, padding), 1e-4)
    np.testing.assert_allclose(tenths, metres, rtol=1e-6)


@pytest.mark.parametrize('form', ['png', 'rvl'])
def test_compressed_depth_of_both_kinds_is_read(form):
    millimetres = np.array([[0, 500], [1234, 65535]], np.uint16)
    made = depths.depth_from_compressed(compressed(millimetres, '16UC1', form=form))
    np.testing.assert_allclose(made, millimetres / 1000, rtol=1e-6)
    metres = np.array([[0.4, 1.0], [2.5, 9.0]], np.float32)
    a, b = 10.0 * 11 * 100, 1 - 110.0  # as compressed_depth_image_transport: z = a / (value - b)
    values = (a / metres + b).round().astype(np.uint16)
    values[0, 0] = 0
    made = depths.depth_from_compressed(compressed(values, '32FC1', (a, b), form))
    assert np.isnan(made[0, 0])
    np.testing.assert_allclose(made[values > 0], metres[values > 0], rtol=0.001)


@pytest.mark.parametrize(
    'change, words',
    [
        ({'format': '16UC1; compressedDepth rvl', 'data': bytes(40)}, '0 x 0 pixels'),
        ({'format': '16UC1; compressedDepth', 'data': bytes(40)}, 'neither PNG nor RVL'),
        ({'format': '8UC1; compressedDepth'}, '8UC1'),
        ({'data': b''}, 'is empty'),
        ({'data': bytes(12) + b'\x89PNGgarbage'}, '16 bits|decoded'),
    ],
)
def test_compressed_depth_that_cannot_be_read_is_refused(change, words):
    message = compressed(np.ones((4, 4), np.uint16), '16UC1')
    with pytest.raises(ImageError, match=words):
        depths.depth_from_compressed(SimpleNamespace(**(vars(message) | change)))


def test_rvl_of_any_image_is_read_and_damaged_bytes_are_refused():
    chance = np.random.default_rng(0)
    pixels = np.linspace(600, 4000, 64)[None] + chance.normal(0, 30, (48, 64))
    pixels[chance.random(pixels.shape) < 0.1] = 0
    rough = chance.integers(0, 65536, (7, 9))
    for each in (pixels, np.zeros((3, 5)), np.full((3, 5), 65535), rough):
        each = each.astype(np.uint16)
        np.testing.assert_array_equal(decode_rvl(rvl(each)), each)
    whole = rvl(pixels.astype(np.uint16))
    for end in range(0, len(whole) - 4, 40):
        with pytest.raises(ImageError):
            decode_rvl(whole[:end])
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[chance.integers(len(whole))] = chance.integers(256)
        with contextlib.suppress(ImageError):
            decode_rvl(bytes(damaged))


def test_colour_is_no_depth():
    with pytest.raises(ImageError, match='rgb8'):
        depths.depth_from_image(image(np.zeros((2, 6), np.uint8), 'rgb8'))
    short = image(np.zeros((2, 6), np.uint16), '16UC1')
    short.data = short.data[:-1]
    with pytest.raises(ImageError, match='data has'):
        depths.depth_from_image(short)


def cloud(points, big=False, **change):
    order = '>' if big else '<'
    layout = np.dtype(
        {
            'names': ['i', 'x', 'y', 'z'],
            'formats': ['u1', f'{order}f4', f'{order}f4', f'{order}f8'],
            'offsets': [0, 4, 8, 12],
            'itemsize': 24,
        }
    )
    rows = np.zeros(points.shape[:2], layout)
    for i, name in enumerate('xyz'):
        rows[name] = points[..., i]
    kinds = {'i': 2, 'x': 7, 'y': 7, 'z': 8}
    fields = [
        SimpleNamespace(name=n, offset=layout.fields[n][1], datatype=kinds[n]) for n in kinds
    ]
    made = SimpleNamespace(
        **{'height': points.shape[0], 'width': points.shape[1], 'fields': fields},
        **{'point_step': 24, 'row_step': 24 * points.shape[1], 'is_bigendian': big},
        data=rows.tobytes(),
    )
    return SimpleNamespace(**(vars(made) | change))


@pytest.mark.parametrize('big', [False, True])
def test_a_cloud_is_read_by_its_fields(big):
    points = np.random.default_rng(0).normal(0, 3, (3, 5, 3)).astype(np.float32)
    np.testing.assert_array_equal(depths.points_from_cloud(cloud(points, big)), points)
    assert depths.points_from_cloud(cloud(points[:0], big)).size == 0


@pytest.mark.parametrize('change', [{'data': b'12'}, {'fields': []}, {'point_step': 8}])
def test_a_broken_cloud_is_refused(change):
    with pytest.raises(ImageError):
        depths.points_from_cloud(cloud(np.zeros((2, 2, 3), np.float32), **change))


def test_depth_of_a_camera_that_stands_elsewhere_is_seen_from_ours():
    turn = cv2.Rodrigues(np.array([0.02, -0.03, 0.1]))[0]
    transform = np.eye(4)
    transform[:3, :3], transform[:3, 3] = turn, (0.05, -0.01, 0.02)
    theirs = Camera((400, 500), np.array([[500.0, 0, 250], [0, 500, 200], [0, 0, 1]]),
                    FISHEYE, 'equidistant')  # fmt: skip
    # A plane n x = 3 in our frame, seen by both.
    normal = np.array([0.2, -0.1, 1.0])
    ours = 3 / (np.dstack((CAMERA.grid, np.ones((240, 320)))) @ normal)
    inside = turn.T @ normal  # n (R x + t) = 3
    their_rays = np.dstack((theirs.grid, np.ones((400, 500))))
    depth = (3 - normal @ transform[:3, 3]) / (their_rays @ inside)
    made = depths.projected(
        depths.points_of(depth.astype(np.float32), theirs), transform, CAMERA, reach=1
    )
    known = np.isfinite(made)
    assert known[40:200, 40:280].mean() > 0.99
    assert np.abs(made - ours)[known].max() < 0.03
    with pytest.raises(ValueError, match='camera_info'):
        depths.points_of(depth[1:].astype(np.float32), theirs)


def test_the_nearest_of_several_points_is_seen_and_nothing_behind():
    points = np.array([(0, 0, 2), (0, 0, 1), (0, 0, -1), (np.nan, 0, 1), (9, 0, 1)], np.float32)
    made = depths.projected(points, np.eye(4), CAMERA)
    assert np.nanmax(made) == 1 and np.isfinite(made).sum() == 1


def test_registered_depth_of_another_size_is_enlarged_and_of_another_view_refused():
    small = np.arange(12, dtype=np.float32).reshape(3, 4)
    large = depths.resized(small, (6, 8))
    np.testing.assert_array_equal(large[::2, ::2], small)
    assert depths.resized(small, (3, 4)) is small
    with pytest.raises(ImageError, match='not registered'):
        depths.resized(small, (6, 12))


# Estimates


def test_a_board_is_where_it_is_with_its_size():
    depth = np.full(CAMERA.shape, 6.0, np.float32)
    depth[60:120, 100:200] = 2.0
    full = np.zeros(CAMERA.shape, bool)
    full[57:123, 97:203] = True  # three pixels too wide
    made = estimate(depth, CAMERA, crop(full), EstimateConfig())
    assert isinstance(made, Estimate)
    middle = CAMERA.rays(np.array([[150, 90]]))[0] * 2
    np.testing.assert_allclose(made.position, (*middle, 2.0), atol=0.005)
    np.testing.assert_allclose(made.size, (200 / 300, 120 / 310, 0), atol=0.02)
    assert made.points == pytest.approx(6000, rel=0.02)
    assert (np.linalg.eigvalsh(made.covariance) > 0).all()


def test_the_errors_are_small_and_the_covariance_is_honest(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / 'bench')
    space = importlib.import_module('space')
    monkeypatch.setattr(space, 'SCENES', 24)
    rows = {(row['sensor'], row['way']): row for row in space.errors(False)}
    for sensor in ('structured light', 'stereo'):
        for way in ('mask', 'mask, moved'):
            row = rows[sensor, way]
            assert row['objects'] > 70 and row['none'] < row['objects'] / 20
            assert row['median_percent'] < 2 and row['p95_percent'] < 5
            assert row['within_1cm_1percent'] > 0.5
            assert row['beyond_covariance_percent'] <= 5
            assert row['width_median_percent'] < 10
        assert row['p95_percent'] < rows[sensor, 'box median']['p95_percent'] / 3


def test_what_stands_in_front_and_behind_is_left_out():
    depth = np.full(CAMERA.shape, 7.0, np.float32)
    mask = disc((160, 120), 40)
    depth[80:161, 120:201] = 3.0  # the object, a board
    depth[:, 150:158] = 1.0  # a pole that the mask leaks onto
    depth[100:110, 165:190] = np.nan  # a reflection
    made = estimate(depth, CAMERA, mask, EstimateConfig())
    assert made.position[2] == pytest.approx(3.0)


@pytest.mark.parametrize(
    'depth, reason',
    [
        (np.full(CAMERA.shape, np.nan), Reason.FEW_POINTS),
        (np.zeros(CAMERA.shape), Reason.FEW_POINTS),
        (np.full(CAMERA.shape, 1500.0), Reason.OUT_OF_RANGE),  # millimetres
        (np.full(CAMERA.shape, np.inf), Reason.FEW_POINTS),
        (np.random.default_rng(0).permutation(np.geomspace(0.2, 19, 76800)).reshape(240, 320),
         Reason.SCATTERED),
    ],
)  # fmt: skip
def test_without_good_depth_there_is_a_reason_and_no_position(depth, reason):
    small = disc((100, 100), 5)
    made = estimate(depth.astype(np.float32), CAMERA, small, EstimateConfig())
    assert made == reason


def test_an_object_of_holes_has_no_position_but_a_scanner_sees_it():
    depth = np.full(CAMERA.shape, np.nan, np.float32)
    depth[::4, ::4] = 2.0
    mask = disc((160, 120), 40)
    assert estimate(depth, CAMERA, mask, EstimateConfig()) == Reason.FEW_POINTS
    made = estimate(depth, CAMERA, mask, EstimateConfig(), sparse=True)
    assert made.position[2] == pytest.approx(2.0) and 250 < made.points < 350


def test_a_box_serves_where_there_is_no_mask():
    depth = np.full(CAMERA.shape, 7.0, np.float32)
    depth[80:161, 120:201] = 3.0
    mask = mask_of_box(np.array([120, 80, 201, 161], np.float32))
    made = estimate(depth, CAMERA, mask, EstimateConfig(), loose=True)
    tight = estimate(depth, CAMERA, disc((160, 120), 38), EstimateConfig())
    assert made.position[2] == pytest.approx(3.0)
    assert made.covariance[0, 0] > tight.covariance[0, 0]


# Motion


def run(motions, seconds, measure, rng, speed=(0.5, 0.0, -0.2), step=0.1, start=0.0):
    """Let an object move evenly; gives the last answer and the truth."""
    answer, place = {}, None
    for i in range(round(seconds / step)):
        at = start + i * step
        place = np.array([1.0, 0.5, 4.0]) + np.array(speed) * at
        noise = np.diag([1e-4, 1e-4, 4e-4])
        seen = rng.multivariate_normal(place, noise)
        answer = motions.step(round(at * 1e9), {7: (seen, noise)} if measure else {})
    return answer, place


def test_velocity_is_found_and_an_object_that_is_not_measured_predicted():
    motions, rng = Motions(FilterConfig(acceleration=0.5)), np.random.default_rng(0)
    answer, place = run(motions, 4.0, True, rng)
    np.testing.assert_allclose(answer[7].velocity, (0.5, 0, -0.2), atol=0.12)
    before = answer[7].covariance
    answer, place = run(motions, 1.0, False, rng, start=4.0)
    np.testing.assert_allclose(answer[7].position, place, atol=0.2)
    assert answer[7].age == pytest.approx(1.0) and (answer[7].covariance > before).any()
    answer, _ = run(motions, 2.0, False, rng, start=5.0)
    assert not answer and not len(motions), 'forgotten after keep_seconds'


def test_the_covariance_of_motion_is_honest():
    beyond, count = 0, 0
    for seed in range(40):
        motions, rng = Motions(FilterConfig(acceleration=0.5)), np.random.default_rng(seed)
        motion, place = run(motions, 2.0, True, rng)
        error = motion[7].position - place
        beyond += error @ np.linalg.solve(motion[7].covariance, error) > CHI2_95
        error = motion[7].velocity - (0.5, 0, -0.2)
        beyond += error @ np.linalg.solve(motion[7].velocity_covariance, error) > CHI2_95
        count += 2
    assert beyond <= 0.05 * count


def test_a_wrong_measurement_is_left_out_but_not_for_ever():
    motions, noise = Motions(FilterConfig()), np.eye(3) * 1e-4
    near, away = np.array([0, 0, 2.0]), np.array([0, 0, 9.0])
    for i in range(20):
        motions.step(i * 10**8, {1: (near, noise), 2: (near + 1, noise)})
    answer = motions.step(2 * 10**9, {1: (away, noise), 2: (near + 1, noise)})
    assert answer[1].position[2] < 2.1 and answer[1].age > 0
    for i in range(21, 25):
        answer = motions.step(i * 10**8, {1: (away, noise), 2: (near + 1, noise)})
    np.testing.assert_allclose(answer[1].position, away, atol=0.01)
    np.testing.assert_allclose(answer[2].position, near + 1, atol=0.01)


def test_stamps_that_jump_back_begin_anew():
    motions, noise = Motions(FilterConfig()), np.eye(3) * 1e-4
    motions.step(10**10, {1: (np.ones(3), noise), 2: (np.ones(3), noise)})
    assert set(motions.step(10**9, {2: (np.ones(3), noise)})) == {2}


def test_whatever_depth_holds_there_is_a_finite_position_or_a_reason():
    rng = np.random.default_rng(0)
    strange = np.array([np.nan, np.inf, -np.inf, 0, -1, 1e-30, 1e30, 0.1, 20, 2, 2.01], np.float32)
    found = 0
    with np.errstate(all='raise'):
        for _ in range(400):
            depth = rng.choice(strange, CAMERA.shape, p=rng.dirichlet(np.full(len(strange), 0.3)))
            height, width = rng.integers(0, 60, 2)
            y, x = rng.integers(0, 240 - height), rng.integers(0, 320 - width)
            mask = Mask(int(x), int(y), rng.random((height, width)) < rng.random())
            config = EstimateConfig(least_points=int(rng.integers(3, 30)))
            loose, sparse = rng.random(2) < 0.5
            made = estimate(depth, CAMERA, mask, config, bool(loose), bool(sparse))
            if isinstance(made, Reason):
                assert made != Reason.NONE
                continue
            found += 1
            assert config.least_points <= made.points <= mask.pixels.sum()
            assert np.isfinite(made.position).all() and config.near < made.position[2] < config.far
            assert np.isfinite(made.box).all() and (made.size >= 0).all()
            assert (np.linalg.eigvalsh(made.covariance) > 0).all()
    assert found > 50


def test_whatever_a_cloud_says_of_itself_it_is_read_or_refused():
    rng = np.random.default_rng(0)
    good = vars(cloud(np.ones((2, 3, 3), np.float32)))
    refused = 0
    for _ in range(300):
        name = rng.choice(['height', 'width', 'point_step', 'row_step'])
        change = {str(name): int(rng.choice([0, 1, 2, 7, 24, 72, 2**31, 2**32 - 1]))}
        try:
            points = depths.points_from_cloud(SimpleNamespace(**(good | change)))
        except ImageError:
            refused += 1
        else:
            assert points.shape[2] == 3
    assert 50 < refused < 300
