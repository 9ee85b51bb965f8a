# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The studio before a running node, over real DDS: what it shows, and what it asks for."""

import contextlib
import threading
import time

import numpy as np
import pytest
from conftest import scene
from ros_harness import Harness
from studio_kit import browser, needs_chromium, studio, until
from toy import Toy

from masa_ros.errors import ConfigError, PromptError
from masa_ros.methods import METHODS
from masa_ros.nodes.client import NodeClient, NodeError
from masa_ros.studio.live import Live
from masa_ros.types import Prompt, TrackState

pytestmark = pytest.mark.ros
TOY = {'method': 'toy', 'tolerance': 30, 'red': False}
RED = (70, 80)  # a place in ``scene()``


def publish(harness, stop, shift=0):
    """Publish images until somebody says stop."""
    while not stop.wait(0.05):
        harness.images.publish(harness.image(scene(shift)))


@contextlib.contextmanager
def watched(overrides=None, camera=''):
    """Run a node that gets images, and a lane that looks at it."""
    with contextlib.closing(Harness(TOY | (overrides or {}))) as harness:
        harness.wait_until_tracking()
        stop = threading.Event()
        thread = threading.Thread(target=publish, args=(harness, stop))
        thread.start()
        lane = Live(NodeClient('/masa_tracker', camera))
        lane.begin()
        try:
            until(lambda: lane.shown)
            yield harness, lane
        finally:
            stop.set()
            thread.join()
            lane.close()


@pytest.fixture
def both(request, monkeypatch):
    monkeypatch.setitem(METHODS, 'toy', Toy)
    with watched(getattr(request, 'param', None)) as made:
        yield made


def pointing(at, **more):
    return Prompt(0, points=np.array([at], np.float32), **more)


def there(lane, track_id):
    """Whether a track stands in what is shown."""
    shown = lane.shown
    return shown is not None and track_id in shown.result.tracks.track_ids


def test_what_is_pointed_at_is_followed_renamed_and_forgotten(both):
    _, lane = both
    assert lane.shown.result.frame.image.shape == (240, 320, 3)
    answer = lane.ask(lane.shown, pointing(RED))
    assert answer.track_ids == (1,) and not answer.problem
    until(lambda: there(lane, 1))
    lane.rename(1, 'ball')
    until(lambda: there(lane, 1) and 'ball' in lane.shown.result.tracks.names)
    (seen,) = lane.catalogue.listed()
    assert (seen.track_id, seen.name, seen.state) == (1, 'ball', TrackState.TRACKED)
    corrected = lane.ask(lane.shown, pointing((215, 150), track_id=1))
    assert corrected.track_ids == (1,)
    lane.remove(1)
    until(lambda: lane.shown and not there(lane, 1))
    for act in (lane.remove, lambda i: lane.rename(i, 'x'), lambda i: lane.keep_only([i])):
        with pytest.raises(PromptError, match='no track has the id 9'):
            act(9)
    assert 'does not understand text' in lane.ask(lane.shown, Prompt(0, text='ball.')).problem
    assert lane.candidates(lane.shown, pointing(RED)) == []


def test_a_long_name_is_refused(both):
    _, lane = both
    assert lane.ask(lane.shown, pointing(RED)).track_ids == (1,)
    with pytest.raises(PromptError, match='201 letters'):
        lane.rename(1, 'x' * 201)


def test_parameters_are_a_form_and_are_set_at_once_or_by_configuring_anew(both):
    harness, lane = both
    fields = {field.name: field for field in lane.fields()}
    tolerance = fields['tolerance']
    assert tolerance.value == 30 and tolerance.low is not None and tolerance.text
    assert fields['method'].choices and not fields['method'].live
    assert fields['on_device_failure'].live and fields['cameras'].fixed
    lane.change({'held_frames': 9})
    assert harness.node.get_parameter('held_frames').value == 9
    with pytest.raises(ConfigError, match='held_frames'):
        lane.change({'held_frames': 100_000})
    lane.change({'common_ids': True})  # read when it is configured
    assert harness.node.get_parameter('common_ids').value is True
    until(lambda: harness.node._work is not None and harness.node._work.active)
    version = lane.shown.version
    until(lambda: lane.shown.version > version + 2)


def test_health_is_what_diagnostics_tell(both):
    harness, lane = both
    until(lambda: lane.figures.median_ms() > 0 and lane.memory_mib() > 10)
    until(lambda: lane.notices()[0].text == 'tracking')
    facts = {notice.text for notice in lane.notices() if notice.level == 'fact'}
    assert 'topic: /image_raw' in facts and lane.title.endswith('toy')
    harness.images.publish(harness.image(scene()[:, :, 0], 'nonsense'))
    until(lambda: any('nonsense' in notice.text for notice in lane.notices()))


def test_who_does_not_look_costs_nothing(both):
    harness, lane = both
    count = harness.images.get_subscription_count
    assert count() == 2
    looked = lane._client._looked
    until(lambda: count() == 1)  # nobody asked for ``shown`` for some seconds
    assert time.monotonic() - looked > 2
    _ = lane.shown
    until(lambda: lane.shown and count() == 2)


def test_a_node_that_is_not_there_is_told():
    lane = Live(NodeClient('/nobody'))
    lane.begin()
    try:
        assert lane.shown is None
        (notice,) = lane.notices()
        assert notice.level == 'error' and '/nobody publishes no diagnostics' in notice.text
        with pytest.raises(NodeError, match='/nobody offers no list_parameters: does it run'):
            lane.fields()
    finally:
        lane.close()


def test_a_camera_of_several_is_looked_at(monkeypatch):
    monkeypatch.setitem(METHODS, 'toy', Toy)
    overrides = TOY | {'cameras': ['left', 'right']}
    with contextlib.closing(Harness(overrides)) as harness:
        images = harness.peer.create_publisher(type(harness.image(scene())), 'right/image_raw', 5)
        assert harness.until(lambda: images.get_subscription_count())
        lane = Live(NodeClient('masa_tracker', 'right'))
        lane.begin()
        try:

            def shown():
                images.publish(harness.image(scene()))
                time.sleep(0.05)
                return lane.shown

            until(shown)
            assert lane.ask(lane.shown, pointing(RED)).track_ids == (1,)
            until(lambda: shown() and there(lane, 1))
        finally:
            lane.close()


def test_compressed_images_are_shown_too(monkeypatch):
    import cv2
    from sensor_msgs.msg import CompressedImage

    monkeypatch.setitem(METHODS, 'toy', Toy)
    with contextlib.closing(Harness(TOY | {'image_transport': 'compressed'})) as harness:
        harness.wait_until_tracking()
        lane = Live(NodeClient('/masa_tracker'))
        lane.begin()
        _, data = cv2.imencode('.png', scene()[:, :, ::-1])
        try:

            def shown():
                message = CompressedImage(
                    header=harness.header(), format='png', data=data.tobytes()
                )
                harness.compressed.publish(message)
                time.sleep(0.05)
                return lane.shown

            until(shown)
            assert np.array_equal(lane.shown.result.frame.image, scene())
        finally:
            lane.close()


@needs_chromium
@pytest.mark.timeout(400)
def test_the_page_steers_a_node(both):
    harness, _ = both
    with browser() as chromium, studio('--ros') as (address, _):
        page = chromium.new_page(viewport={'width': 1300, 'height': 800})
        problems = []
        page.on('pageerror', lambda error: problems.append(str(error)))
        page.goto(address)
        picture = page.get_by_label('picture 0', exact=True).locator('img').first
        until(lambda: picture.evaluate('each => each.naturalWidth') == 320)
        page.get_by_role('button', name='Click on it').click()
        box = picture.bounding_box()
        page.mouse.click(
            box['x'] + RED[0] * box['width'] / 320, box['y'] + RED[1] * box['height'] / 240
        )
        row = page.get_by_label('object 1', exact=True)
        row.wait_for()
        until(lambda: harness.tracks[-1].instances)
        assert [each.track_id for each in harness.tracks[-1].instances] == [1]
        # A browser is sent pictures as long as it shows them.
        sent = []
        page.on('request', lambda r: sent.append(r.url) if '/picture/' in r.url else None)
        until(lambda: (page.wait_for_timeout(50), len(set(sent)) >= 10)[1])

        page.get_by_role('tab', name='Options').click()
        field = page.get_by_label('option held_frames', exact=True)
        field.fill('17')
        field.blur()
        until(lambda: harness.node.get_parameter('held_frames').value == 17)
        page.get_by_role('tab', name='Health').click()
        page.get_by_text('tracking', exact=True).wait_for()
        page.get_by_role('tab', name='Objects').click()
        row.get_by_label('menu').click()
        page.get_by_text('Remove', exact=True).click()
        until(lambda: not harness.tracks[-1].instances)
        assert problems == []
