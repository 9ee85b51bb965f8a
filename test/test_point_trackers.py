# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Point trackers: what they follow, what they lose, how late they answer, what they look at."""

import copy
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from masa_ros import options
from masa_ros.errors import ConfigError, WeightsError
from masa_ros.methods.sam_pt import SamPtConfig
from masa_ros.models.pips import FRAMES, Pips
from masa_ros.point_trackers import POINT_TRACKERS
from masa_ros.point_trackers.lucas_kanade import LucasKanade, LucasKanadeConfig
from masa_ros.point_trackers.pips import PipsConfig, PipsTracker
from masa_ros.types import Frame

SHARED = Path(os.environ.get('MASA_ROS_SHARED', Path(__file__).parents[2] / 'shared'))
TOOLS = Path(__file__).parents[1] / 'tools'
POINTS = np.array([(40, 30), (80.5, 60.25), (120, 90)], np.float32)


def ground(size=(120, 160), seed=0):
    """A picture with something to see at every place."""
    noise = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


def moved(image, x, y):
    """The picture moved to the right and down; what comes in is its reflection."""
    height, width = image.shape[:2]
    by = np.float32([(1, 0, x), (0, 1, y)])
    return cv2.warpAffine(image, by, (width, height), borderMode=cv2.BORDER_REFLECT)


def steps(tracker, images, points):
    """What a chain says after each of the images behind the first, and at the end."""
    encoded = tracker.encode([Frame(image, t) for t, image in enumerate(images)])
    chain = tracker.begin(encoded[0], points)
    return [chain.step(each) for each in encoded[1:]], chain.rest()


def test_the_registry_has_lucas_kanade_first_and_its_options():
    assert next(iter(POINT_TRACKERS)) == 'lucas_kanade'
    names = {each.name for each in options.listed(SamPtConfig, every=True)}
    assert {'lucas_kanade.window', 'pips.weights'} <= names
    made = POINT_TRACKERS['lucas_kanade'].load(LucasKanadeConfig(), 'cpu')
    assert made.facts()['model'] == 'Lucas-Kanade' and made.late == 0
    with pytest.raises(ConfigError, match='window'):
        LucasKanadeConfig(window=1)


# Lucas-Kanade


@pytest.mark.parametrize('speed', [(0.5, 0.25), (3, -2), (-9, 7)])
def test_lucas_kanade_follows_a_known_motion_at_once(speed):
    image = ground()
    images = [moved(image, speed[0] * t, speed[1] * t) for t in range(4)]
    answers, rest = steps(LucasKanade(), images, POINTS)
    assert [len(each) for each in answers] == [1, 1, 1] and rest == []
    for t, (seen,) in enumerate(answers, 1):
        expected = POINTS + np.float32(speed) * t
        inside = ((expected > 12) & (expected < (148, 108))).all(1)
        assert seen.visible[inside].all()
        assert np.abs(seen.points - expected)[inside].max() < 0.15


def test_lucas_kanade_loses_what_leaves_and_what_is_plain_for_good():
    image = ground()
    image[70:, :60] = 90  # nothing to see there
    points = np.array([(150, 60), (20, 95), (80, 40)], np.float32)
    answers, _ = steps(LucasKanade(), [moved(image, 6 * t, 0) for t in range(4)], points)
    seen = answers[-1][0]
    assert seen.visible.tolist() == [False, False, True]
    assert np.abs(seen.points[2] - (98, 40)).max() < 0.2
    assert np.isfinite(seen.points).all()
    back, _ = steps(LucasKanade(), [moved(image, x, 0) for x in (0, 12, 0)], points)
    assert not back[-1][0].visible[0], 'what was lost is not followed again'


def test_lucas_kanade_notices_by_the_way_back_what_is_covered():
    image = ground()
    covered = image.copy()
    covered[15:45, 25:55] = ground(seed=5)[15:45, 25:55]
    strict, _ = steps(LucasKanade(), [image, covered], POINTS)
    assert strict[0][0].visible.tolist() == [False, True, True]


def test_lucas_kanade_sees_colours_that_are_equally_bright():
    image = np.full((120, 160, 3), (0, 0, 255), np.uint8)
    image[40:70, 50:90] = (0, 50, 0)  # as bright
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    assert np.ptp(gray) <= 1
    answers, _ = steps(LucasKanade(), [image, moved(image, 2, 1)], np.float32([(50, 40)]))
    assert answers[0][0].visible.all()
    assert np.abs(answers[0][0].points - (52, 41)).max() < 0.2


def test_a_chain_goes_on_with_the_points_that_are_kept():
    image = ground()
    tracker = LucasKanade()
    encoded = tracker.encode([Frame(moved(image, 2 * t, 0), t) for t in range(3)])
    chain = tracker.begin(encoded[0], POINTS)
    chain.step(encoded[1])
    chain.keep(np.array([2, 0]))
    (seen,) = chain.step(encoded[2])
    assert np.abs(seen.points - (POINTS[[2, 0]] + (4, 0))).max() < 0.1


# PIPs


@pytest.fixture(scope='module')
def pips():
    """Random weights of which points move a little and are visible now and then."""
    torch.manual_seed(0)
    network = Pips()
    with torch.no_grad():
        network.delta_block.to_delta[-1].weight *= 0.03
        network.vis_predictor[0].weight *= 30
    return PipsTracker(network)


@pytest.fixture(scope='module')
def exact(pips):
    """The same in double precision: rounding grows from iteration to iteration."""
    return PipsTracker(copy.deepcopy(pips.network).double())


def video(count):
    image = ground((64, 96))
    return [moved(image, t, 0.5 * t) for t in range(count)]


def alone(tracker, encoded, point):
    """A point followed by itself with all frames at hand, window by window."""
    known = tracker.features(encoded[0], point[None])
    places, seen, start = [point], [1.0], 0
    while start < len(encoded) - 1:
        window = encoded[start : start + FRAMES]
        count = len(window)
        window = window + window[-1:] * (FRAMES - count)
        path, visible = tracker.window(window, places[start][None], known)
        # Between windows places are in single precision.
        places[start + 1 :] = path[1:count, 0].astype(np.float32)
        seen[start + 1 :] = visible[1:count, 0]
        limit, step = 0.9, 0
        while not step:
            step = next((i for i in range(count - 1, 0, -1) if visible[i, 0] > limit), 0)
            limit -= 0.02
        start += step
    return np.array(places), np.array(seen) > 0.5


def test_windows_that_come_in_are_those_of_the_whole_video(exact):
    images = video(13)
    points = np.array([(20, 20), (70, 50)], np.float32)
    answers, rest = steps(exact, images, points)
    given = [seen for each in answers for seen in each] + rest
    assert len(given) == len(images) - 1
    encoded = exact.encode([Frame(image, t) for t, image in enumerate(images)])
    for i, point in enumerate(points):
        places, visible = alone(exact, encoded, point)
        ours = np.array([seen.points[i] for seen in given])
        assert np.abs(ours - places[1:]).max() < 1e-3
        assert [seen.visible[i] for seen in given] == visible[1:].tolist()


def test_an_answer_is_a_window_late_at_most_and_says_nothing_twice(pips):
    points = np.array([(20, 20), (70, 50)], np.float32)
    answers, rest = steps(pips, video(16), points)
    answered = np.cumsum([len(each) for each in answers])
    frames = np.arange(1, 16)
    assert (frames - answered <= pips.late).all() and pips.late == 7
    assert answered[0] == 0, 'nothing is known before the window is full'
    assert answered[-1] + len(rest) == 15


def test_every_frame_is_seen_by_the_network_once(pips, monkeypatch):
    seen = []
    monkeypatch.setattr(
        pips.network.fnet,
        'forward',
        lambda x, run=pips.network.fnet.forward: seen.append(len(x)) or run(x),
    )
    answers, _ = steps(pips, video(17), np.array([(20, 20), (70, 50)], np.float32))
    assert sum(seen) == 17
    assert sum(len(each) for each in answers) > FRAMES, 'several windows were run'


def test_asking_for_the_rest_changes_nothing(pips):
    encoded = pips.encode([Frame(image, t) for t, image in enumerate(video(10))])
    points = np.array([(20, 20), (70, 50)], np.float32)
    asked, silent = pips.begin(encoded[0], points), pips.begin(encoded[0], points)
    for t, each in enumerate(encoded[1:], 1):
        theirs, ours = silent.step(each), asked.step(each)
        if t in (4, 8):
            first, again = asked.rest(), asked.rest()
            assert len(first) == len(again) > 0
            assert all((one.points == other.points).all() for one, other in zip(first, again))
        for one, other in zip(ours, theirs, strict=True):
            assert (one.points == other.points).all()
            assert (one.visible == other.visible).all()


def test_pips_goes_on_with_the_points_that_are_kept(exact):
    encoded = exact.encode([Frame(image, t) for t, image in enumerate(video(10))])
    points = np.array([(20, 20), (70, 50), (40, 30)], np.float32)
    chain, whole = exact.begin(encoded[0], points), exact.begin(encoded[0], points)
    for each in encoded[1:4]:
        chain.step(each)
    chain.keep(np.array([2, 0]))
    ours = [seen for each in encoded[4:] for seen in chain.step(each)] + chain.rest()
    theirs = [seen for each in encoded[1:] for seen in whole.step(each)] + whole.rest()
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(one.points - other.points[[2, 0]]).max() < 1e-3


def test_large_images_are_made_smaller_and_points_stay_in_their_pixels(pips):
    small = PipsTracker(pips.network, PipsConfig(size=96))
    frame = Frame(ground((128, 192)), 0)
    (encoded,) = small.encode([frame])
    assert encoded.maps.levels[0].shape[:2] == (16, 24) and encoded.scale == (0.5, 0.5)
    found, visible = small.window([encoded] * 8, POINTS, small.features(encoded, POINTS))
    assert found.shape == (8, 3, 2) and visible.shape == (8, 3)
    assert np.abs(found[0] - POINTS).max() < 1e-4
    assert small.encode([]) == []


def test_weights_that_are_not_there_or_of_something_else(tmp_path):
    load = POINT_TRACKERS['pips'].load
    with pytest.raises(ConfigError, match=r'pips.weights: name the file, model-000200000\.pth'):
        load(PipsConfig(), 'cpu')
    with pytest.raises(WeightsError, match='nothing'):
        load(PipsConfig(weights=str(tmp_path / 'nothing.pth')), 'cpu')
    other = tmp_path / 'other.safetensors'
    save_file({'fnet.conv1.weight': torch.zeros(64, 3, 7, 7)}, other)
    with pytest.raises(WeightsError, match='does not fit the network of PIPs') as error:
        load(PipsConfig(weights=str(other)), 'cpu')
    assert len(str(error.value).splitlines()) == 1
    broken = tmp_path / 'broken.pth'
    broken.write_bytes(b'no weights')
    with pytest.raises(WeightsError, match='broken'):
        load(PipsConfig(weights=str(broken)), 'cpu')
    with pytest.raises(ConfigError, match='device'):
        load(PipsConfig(weights=str(other)), 'abacus')


def test_published_weights_are_read_as_they_are(tmp_path, pips):
    path = tmp_path / 'model-000200000.pth'
    state = {name: value.clone() for name, value in pips.network.state_dict().items()}
    torch.save({'model_state_dict': state}, path)
    loaded = POINT_TRACKERS['pips'].load(PipsConfig(weights=str(path)), 'cpu')
    assert loaded.facts()['weights'].startswith('model-000200000.pth sha256:')
    for name, value in loaded.network.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_numbers_of_the_original(monkeypatch):
    folder = SHARED / 'parity' / 'sam_pt'
    if not (folder / 'pips.npz').is_file():
        pytest.skip(f'the numbers of the original code are not at {folder}')
    monkeypatch.syspath_prepend(str(TOOLS))
    from parity_checks import pips as checks
    from parity_checks import report

    fixtures = report.Fixtures(folder, report.load_seeded(folder.parent))
    lines, arrays = report.Report(), fixtures.arrays('pips.npz')
    tracker = checks.load_tracker(fixtures, arrays)
    frames = [Frame(image, t) for t, image in enumerate(arrays['frames_rgb'][:10])]
    with torch.inference_mode():
        checks.compare_network(lines, tracker, frames, arrays)
    assert lines.lines > 10 and not lines.failed
