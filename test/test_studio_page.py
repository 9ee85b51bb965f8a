# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The page of the studio and the evaluation page, in a real browser."""

import json
import re
import urllib.error
import urllib.request

import numpy as np
import pytest
from studio_kit import browser, needs_chromium, studio, until, write_recording

from masa_ros.cli import main
from masa_ros.demo.pointing import innermost
from masa_ros.recordings.prompts import read_prompts
from masa_ros.recordings.tracks_file import read_tracks

pytestmark = [needs_chromium, pytest.mark.timeout(600)]
FRAMES = 60


@pytest.fixture(scope='module')
def recording(tmp_path_factory):
    """A recording of the demo, its path, and its truth."""
    folder = tmp_path_factory.mktemp('recording')
    return folder / 'recording.mcap', write_recording(folder, FRAMES)


@pytest.fixture(scope='module')
def chromium():
    with browser() as made:
        yield made


class Visitor:
    """Somebody before the page."""

    def __init__(self, chromium, address):
        self.context = chromium.new_context(
            viewport={'width': 1400, 'height': 860}, accept_downloads=True
        )
        self.page = self.context.new_page()
        self.problems = []
        self.page.on('pageerror', lambda error: self.problems.append(str(error)))
        self.page.goto(address)
        self.page.set_default_timeout(60_000)
        until(self.sees_a_picture)

    def picture(self, lane=0):
        return self.page.get_by_label(f'picture {lane}', exact=True).locator('img').first

    def sees_a_picture(self):
        return self.picture().evaluate('each => each.naturalWidth') > 0

    def place(self, point, lane=0):
        """Where a point of the image is on the page."""
        box = self.picture(lane).bounding_box()
        return (
            box['x'] + point[0] * box['width'] / 640,
            box['y'] + point[1] * box['height'] / 480,
        )

    def tool(self, name):
        self.page.get_by_role('button', name=name, exact=True).click()

    def tab(self, name):
        self.page.get_by_role('tab', name=name).click()

    def click(self, point, lane=0):
        self.page.mouse.click(*self.place(point, lane))

    def drag(self, *points):
        self.page.mouse.move(*self.place(points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.place(point), steps=4)
        self.page.mouse.up()

    def number(self):
        """The image that stands below the picture."""
        text = self.page.get_by_label('place', exact=True).inner_text()
        return int(re.match(r'\d+', text)[0])

    def selected(self):
        """The object that the next click is for, 0 for a new one."""
        found = re.search(r'object (\d+)', self.page.get_by_label('target').inner_text())
        return int(found[1]) if found else 0

    def rests(self):
        """Wait until what was asked for last is answered."""
        self.page.wait_for_timeout(300)
        self.page.get_by_label('busy').wait_for(state='hidden')

    def objects(self):
        return self.page.locator('[aria-label^="object "]').all_inner_texts()

    def menu(self, track_id, item):
        row = self.page.get_by_label(f'object {track_id}', exact=True)
        row.get_by_label('menu').click()
        self.page.get_by_text(item, exact=True).click()

    def download(self, button):
        self.tab('Files')
        with self.page.expect_download() as waiting:
            self.page.get_by_role('button', name=button).click()
        return waiting.value.path()

    def option(self, name, value):
        self.tab('Options')
        field = self.page.get_by_label(f'option {name}', exact=True)
        field.fill(value)
        field.blur()

    def bring(self, path):
        self.tab('Files')
        self.page.locator('input[type=file]').set_input_files(str(path))

    def told(self, text):
        self.page.get_by_text(text).first.wait_for()

    def close(self):
        self.context.close()
        assert self.problems == []


@pytest.fixture
def visit(chromium):
    visitors = []

    def visit(address):
        visitors.append(Visitor(chromium, address))
        return visitors[-1]

    yield visit
    for visitor in visitors:
        visitor.close()


def actor(truth, index, number):
    """The middle of an object of the truth in an image, x y."""
    return innermost(truth[index].instances.masks[number]).tolist()


def test_an_object_is_clicked_followed_for_fifty_images_saved_and_opened_again(
    recording, visit, tmp_path
):
    path, truth = recording
    sizes = [mask.pixels.sum() if mask else 0 for mask in truth[0].instances.masks]
    first, second = (int(i) for i in np.argsort(sizes)[::-1][:2])
    with studio(path, '--find', 'nothing', '--device', 'cpu') as (address, _):
        me = visit(address)
        me.tool('Click on it')
        me.click(actor(truth, 0, first))
        until(lambda: me.selected() == 1)

        play = me.page.get_by_label('play', exact=True)
        play.click()
        until(lambda: me.number() >= 52)
        play.click()
        (row,) = until(lambda: me.objects())
        assert row.startswith('1')
        saved = read_tracks(me.download('Save tracks.json'))
        there = [f.index for f in saved if 1 in f.instances.track_ids]
        assert len(there) >= 50, 'it was followed under one id'
        assert {i for f in saved for i in f.instances.track_ids.tolist()} == {1}

        me.tab('Objects')
        me.menu(1, 'Rename')
        me.page.get_by_label('name', exact=True).fill('my <b>flower</b>')
        me.page.get_by_role('button', name='Rename').click()
        until(lambda: me.objects()[0].startswith('1 my <b>flower</b>'))
        me.menu(1, 'Remove')
        until(lambda: 'not in view' in me.objects()[0])

        me.tool('Select')  # nothing: the next one is a new object
        me.click((2, 2))
        me.tool('Box')
        at = me.number()
        box = truth[at].instances.boxes[second]
        me.drag(box[:2].tolist(), box[2:].tolist())
        until(lambda: me.selected() == 2)

        me.option('score_threshold', '0.25')
        me.option('held_frames', '12')
        me.option('score_threshold', '7')
        field = me.page.get_by_label('option score_threshold', exact=True)
        until(lambda: field.input_value() == '1')  # its limit
        still = me.download('Save a still').read_bytes()
        assert still[:2] == b'\xff\xd8'
        prompts = tmp_path / 'prompts.json'
        prompts.write_bytes(me.download('Save prompts.json').read_bytes())
        made = read_prompts(prompts)
        assert [each.frame for each in made] == [0, at]
        assert made[0].prompt.kinds == {'point'} and made[1].prompt.kinds == {'box'}
        assert np.abs(made[1].prompt.box - box).max() < 2
        video = me.download('Save the video').read_bytes()
        assert b'ftyp' in video[:32]

        tracks = tmp_path / 'tracks.json'
        tracks.write_bytes(me.download('Save tracks.json').read_bytes())
        me.bring(tracks)
        me.told('are shown beside')
        until(lambda: me.picture(1).evaluate('each => each.naturalWidth') > 0)
        me.bring(prompts)
        me.told('2 prompts of prompts.json are followed')

    output = tmp_path / 'replayed'
    options = ['--prompts', prompts, '--find', 'nothing', '--device', 'cpu', '--no-overlay']
    command = ['replay', path, '--output', output, *options]
    assert main(list(map(str, command))) == 0, 'replay understands what was saved'


def test_strokes_words_and_other_answers(recording, visit):
    path, truth = recording
    mask = max(truth[0].instances.masks, key=lambda each: each.pixels.sum())
    x, y = innermost(mask).tolist()
    with studio(path, '--find', 'nothing', '--device', 'cpu') as (address, _):
        me = visit(address)
        me.tool('Stroke')
        me.drag((x - 20, y - 20), (x + 20, y), (x - 20, y + 20))
        until(lambda: me.selected() == 1)
        me.tool('Not this')
        me.click((x + 8, y + 8))
        me.rests()
        me.tool('Select')
        me.click((639, 1))
        me.tool('Click on it')
        me.click((x, y))
        until(lambda: me.selected() == 2)
        offers = me.page.get_by_label('offers').get_by_role('button')
        if offers.count() > 1:  # a network may be sure
            offers.nth(1).hover()
            offers.nth(1).click()
            until(lambda: me.page.get_by_label('offers').get_by_role('button').count() == 0)
        me.page.get_by_label('words').fill('no such thing.')
        me.page.get_by_role('button', name='Follow').click()
        me.told('no such thing')


def test_two_methods_are_compared_in_two_browsers(recording, visit):
    path, _ = recording
    with studio(path, '--device', 'cpu') as (address, _):
        me, other = visit(address), visit(address)
        me.tab('Files')
        me.page.get_by_label('with the method').click()
        me.page.get_by_role('option', name='sam_track').click()
        me.page.get_by_role('button', name='Show it beside').click()
        for each in (me, other):
            until(lambda each=each: each.page.get_by_label('picture 1', exact=True).count())
            until(lambda each=each: each.picture(1).evaluate('i => i.naturalWidth') > 0)
        other.page.get_by_label('step 1', exact=True).click()
        until(lambda: me.number() == 1), 'both see the same image'
        for lane in (0, 1):
            title = me.page.locator('[aria-label=title]').nth(lane).inner_text()
            assert title.endswith('[1]'), title
        me.page.keyboard.press('ArrowLeft')
        until(lambda: other.number() == 0)
        me.tab('Health')
        me.told('sam_track')


def test_a_page_that_is_left_or_hangs_costs_nothing_and_bad_files_are_told(
    recording, visit, tmp_path
):
    path, _ = recording
    with studio(path, '--device', 'cpu', '--largest', '8') as (address, process):
        me, other = visit(address), visit(address)
        wrong = tmp_path / 'holiday.mp4'
        wrong.write_bytes(b'no film')
        me.bring(wrong)
        me.told('holiday.mp4 is neither a bag nor a readable video')
        large = tmp_path / 'large.mcap'
        large.write_bytes(bytes(9 << 20))
        me.bring(large)
        me.told('at most 8 MiB are taken')
        # It hangs: none of its scripts runs any more, and the others go on.
        other.page.evaluate('() => { setTimeout(() => { for (;;) {} }, 50); }')
        me.page.get_by_label('play', exact=True).click()
        until(lambda: me.number() >= 10)
        assert process.poll() is None
        other.problems.clear()

        request = urllib.request.Request(address, headers={'Host': 'evil.example'})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        assert refused.value.code == 403
        for path in ('picture/7', 'picture/-1', 'thumbnail/0/999', 'thumbnail/9/1'):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f'{address}{path}')
            assert refused.value.code == 404


def test_from_elsewhere_the_token_is_needed(recording, chromium):
    path, _ = recording
    with studio(path, '--device', 'cpu', '--host', '0.0.0.0') as (address, _):
        port = re.search(r':(\d+)/', address)[1]
        token = address.partition('token=')[2]
        page = chromium.new_page()
        answer = page.goto(f'http://127.0.0.1:{port}/')
        assert answer.status == 403 and 'the token is missing or wrong' in page.content()
        answer = page.goto(f'http://127.0.0.1:{port}/?token={token}')
        assert answer.status == 200 and 'token' not in page.url
        page.get_by_label('play', exact=True).wait_for()
        page.close()


def test_the_page_shows_ten_images_a_second(recording, visit):
    """Not of this machine's speed: every picture that is drawn is a request, and all differ."""
    path, _ = recording
    with studio(path, '--device', 'cpu') as (address, _):
        me = visit(address)
        seen = set()
        me.page.on('request', lambda r: seen.add(r.url) if '/picture/0?' in r.url else None)
        me.page.get_by_label('play', exact=True).click()
        until(lambda: (me.page.wait_for_timeout(50), me.number() >= FRAMES - 1)[1])
        assert len(seen) >= 10


def test_the_evaluation_page_leads_from_switch_to_switch(recording, chromium, tmp_path):
    path, _ = recording
    truth = path.parent / 'ground_truth.json'
    document = json.loads(truth.read_text())
    for number, shown in enumerate(document['frames']):  # tracks that change their ids once
        for each in shown['instances']:
            each['track_id'] += 100 if number >= 30 else 0
    (tmp_path / 'tracks.json').write_text(json.dumps(document))
    html = tmp_path / 'page.html'
    command = ['evaluate', tmp_path / 'tracks.json', '--ground-truth', truth, '--page', html]
    if main(list(map(str, command))) != 0:
        pytest.fail('evaluate')
    page = chromium.new_page()
    problems = []
    page.on('pageerror', lambda error: problems.append(str(error)))
    page.goto(html.as_uri())
    label = page.locator('#label')
    assert label.inner_text().startswith('frame 0')
    page.get_by_role('button', name='next switch').click()
    assert label.inner_text().startswith('frame 30')
    page.keyboard.press('ArrowRight')
    assert label.inner_text().startswith('frame 31')
    page.get_by_role('button', name='previous switch').click()
    assert label.inner_text().startswith('frame 30')
    bar = page.locator('.row svg').first.bounding_box()
    page.mouse.click(bar['x'] + bar['width'] * 10.5 / FRAMES, bar['y'] + 8)
    assert label.inner_text().startswith('frame 10')
    assert page.locator('#frame').evaluate('each => each.naturalWidth') > 0
    assert problems == []
    page.close()
