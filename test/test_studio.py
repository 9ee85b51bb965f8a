# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What stands behind the page of the studio: recordings, forms, who may come in."""

import asyncio
import json
import threading
import time

import numpy as np
import pytest
from bodies import BLUE, RED, frame, overlap
from studio_kit import until

from masa_ros import options
from masa_ros.cli import main
from masa_ros.errors import ConfigError, ImageError, PromptError, SourceError
from masa_ros.recordings.prompts import read_prompts
from masa_ros.recordings.sources import Item
from masa_ros.recordings.tracks_file import read_tracks
from masa_ros.studio.catalogue import Catalogue, bar
from masa_ros.studio.guard import Guard, is_loopback
from masa_ros.studio.lane import Drawn, Field
from masa_ros.studio.player import BusyError, Player
from masa_ros.studio.recorded import Settings
from masa_ros.studio.shelf import Shelf
from masa_ros.studio.studio import Studio, other_settings
from masa_ros.studio.view import along, under
from masa_ros.types import Frame, Instances, Mask, Prompt, Result, TrackState

POINTED = {'find': 'nothing', 'runtime': 'eager', 'warm_start': False, 'device': 'cpu'}


class Recording:
    """Twenty images of bodies that move; ``broken`` of them hold none."""

    def __init__(self, length=20, broken=(), ends=None):
        self.length, self.broken, self.ends = length, broken, ends

    def __len__(self):
        return self.length

    def __iter__(self):
        for t in range(self.length):
            if t == self.ends:
                raise OSError('the disk is gone')
            image = ImageError('damaged', 'data') if t in self.broken else frame(t)
            yield Item(f'image {t}', image)


def settings(**values):
    return options.build(Settings, POINTED | values)


@pytest.fixture
def player(request):
    made = Player(Recording(**getattr(request, 'param', {})), settings())
    made.begin()
    until(lambda: made.lanes[0].shown)
    yield made
    made.close()


def go(player, index):
    player.seek(index)
    until(lambda: player.position == index)


def box(lane, track_id):
    tracks = lane.shown.result.tracks
    (row,) = np.flatnonzero(tracks.track_ids == track_id)
    return tracks.boxes[row]


def pointing(at, **more):
    return Prompt(0, points=np.array([at], np.float32), **more)


def middle(of, t=0):
    return (of[0] + of[2]) / 2 + t, (of[1] + of[3]) / 2


def test_a_recording_stands_at_its_first_image_and_is_tracked_as_far_as_somebody_looks(player):
    assert player.position == 0 and player.length == 20 and not player.playing
    go(player, 7)
    assert player.lanes[0].shown.number == 7 and player.lanes[0].shown.name == 'image 7'
    player.step(-3)
    until(lambda: player.position == 4)
    assert np.array_equal(player.lanes[0].shown.result.frame.image.shape, (240, 320, 3))
    player.seek(1000)
    until(lambda: player.position == 19)
    assert player.at_end


def test_playing_ends_at_the_last_image_or_begins_again(player):
    player.speed = 0
    player.play(True)
    until(lambda: player.at_end and not player.playing)
    player.loop = True
    player.play(True)
    until(lambda: 0 < player.position < 19)
    player.play(False)
    at = until(lambda: not player.playing) and player.position
    time.sleep(0.3)
    assert player.position in (at, at + 1), 'it stands'


def test_the_pace_is_that_of_the_stamps(player):
    player.play(True)  # ten images a second
    begin = time.monotonic()
    until(lambda: player.position >= 8)
    assert time.monotonic() - begin > 0.5


def test_what_is_clicked_is_followed_renamed_and_forgotten(player):
    lane = player.lanes[0]
    answer = lane.ask(lane.shown, pointing(middle(RED)))
    assert not answer.problem and len(answer.track_ids) == 1
    (track_id,) = answer.track_ids
    assert overlap(box(lane, track_id), RED) > 0.6
    go(player, 6)
    assert overlap(box(lane, track_id), [RED[0] + 6, RED[1], RED[2] + 6, RED[3]]) > 0.6
    lane.rename(track_id, 'ball')
    assert lane.shown.result.tracks.names == ('ball',)
    seen = lane.catalogue.get(track_id)
    assert seen.name == 'ball' and seen.runs == [(0, 6)] and seen.thumbnail[:2] == b'\xff\xd8'
    go(player, 8)
    assert lane.shown.result.tracks.names == ('ball',), 'the name stays'
    lane.remove(track_id)
    assert len(lane.shown.result.tracks) == 0
    go(player, 10)
    assert len(lane.shown.result.tracks) == 0
    with pytest.raises(PromptError, match='no track has the id 99'):
        lane.rename(99, 'nobody')
    with pytest.raises(PromptError, match='no track has the id 99'):
        lane.remove(99)


def test_a_prompt_in_the_past_lets_all_be_tracked_again_as_replay_does(player, tmp_path):
    lane = player.lanes[0]
    go(player, 9)
    lane.ask(lane.shown, pointing(middle(RED, 9)))
    go(player, 4)
    answer = lane.ask(lane.shown, pointing(middle(BLUE, 4)))
    assert answer.track_ids == (1,), 'ids are those of a first run: this one came first'
    assert player.position == 4 and not player.playing
    go(player, 19)
    assert sorted(lane.shown.result.tracks.track_ids.tolist()) == [1, 2]
    assert [each.frame for each in lane.prompts] == [4, 9]

    studio = Studio(settings())
    studio.player = player
    prompts = tmp_path / 'prompts.json'
    prompts.write_text(studio.prompts_json())
    assert len(read_prompts(prompts)) == 2
    folder = tmp_path / 'images'
    folder.mkdir()
    import cv2

    for t in range(20):
        cv2.imwrite(str(folder / f'{t:03}.png'), frame(t).image[:, :, ::-1])
    arguments = ['--prompts', prompts, '--find', 'nothing', '--device', 'cpu', '--no-overlay']
    output = tmp_path / 'out'
    command = ['replay', folder, '--output', output, *arguments]
    assert main([str(each) for each in command]) == 0
    replayed = read_tracks(output / 'tracks.json')
    lane.save_tracks(tmp_path / 'tracks.json')
    shown = read_tracks(tmp_path / 'tracks.json')
    assert [f.instances for f in shown] == [f.instances for f in replayed]


def test_prompts_that_cannot_be_followed_are_answered_and_forgotten(player):
    lane = player.lanes[0]
    answer = lane.ask(lane.shown, pointing((5000, 5000)))
    assert 'outside of the 320x240 image' in answer.problem and not lane.prompts
    go(player, 3)
    player.seek(1)
    until(lambda: player.position == 1)
    answer = lane.ask(lane.shown, pointing((5000, 5000)))
    assert 'outside' in answer.problem and not lane.prompts
    answer = lane.ask(lane.shown, Prompt(0, track_id=77, points=np.array([[9, 9]], np.float32)))
    assert 'no track has the id 77' in answer.problem


def test_several_answers_are_offered(player):
    lane = player.lanes[0]
    masks = lane.candidates(lane.shown, pointing(middle(RED)))
    assert masks and any(overlap(mask.box, RED) > 0.6 for mask in masks)
    assert lane.candidates(lane.shown, Prompt(0, text='person.')) == []


def test_options_change_at_once_or_let_all_be_tracked_again(player):
    lane = player.lanes[0]
    lane.ask(lane.shown, pointing(middle(RED)))
    go(player, 5)
    lane.change({'score_threshold': 0.25, 'held_frames': 7})
    values = {field.name: field.value for field in lane.fields()}
    assert values['score_threshold'] == 0.25 and values['held_frames'] == 7
    assert len(lane.shown.result.tracks) == 1, 'nothing began again'
    with pytest.raises(ConfigError, match='score_threshold is 9'):
        lane.change({'score_threshold': 9.0})
    assert {f.name: f.value for f in lane.fields()}['score_threshold'] == 0.25
    lane.change({'method': 'deva'})
    until(lambda: lane.shown and lane.shown.number == 5)
    assert lane.title.startswith('deva') and len(lane.shown.result.tracks) == 1
    assert 'clip_frames' in {field.name for field in lane.fields()}


def test_options_hold_from_the_image_on_that_they_were_set_at(player):
    lane = player.lanes[0]
    go(player, 3)
    lane.ask(lane.shown, pointing(middle(RED, 3)))
    go(player, 8)
    lane.keep_only([1])  # and find: nothing, which it was before
    lane.change({'held_frames': 5})
    go(player, 1)
    lane.ask(lane.shown, pointing(middle(BLUE, 1)))  # all is tracked again
    values = {field.name: field.value for field in lane.fields()}
    assert values['held_frames'] == 5, 'what is set is not forgotten'
    go(player, 10)
    assert sorted(lane.shown.result.tracks.track_ids.tolist()) == [1, 2]
    lane.track_again()
    until(lambda: lane.shown and lane.shown.number == 10)
    assert sorted(lane.shown.result.tracks.track_ids.tolist()) == [1, 2]


def test_two_ways_are_compared_image_by_image(player):
    studio = Studio(settings())
    studio.player = player
    go(player, 6)
    studio.compare(other_settings(settings(), 'sam_track'))
    until(lambda: all(lane.shown and lane.shown.number == 6 for lane in player.lanes))
    assert [lane.title.split()[0] for lane in player.lanes] == ['masa', 'sam_track']
    first, second = player.lanes
    for lane in (first, second):
        assert lane.ask(lane.shown, pointing(middle(RED, 6))).track_ids == (1,)
    go(player, 9)
    assert overlap(box(first, 1), box(second, 1)) > 0.5
    assert studio.picture(0)[:2] == studio.picture(1)[:2] == b'\xff\xd8'
    studio.compare(None)
    assert len(player.lanes) == 1 and studio.picture(1) == b''


def test_saved_tracks_are_opened_beside(player, tmp_path):
    studio = Studio(settings())
    studio.player = player
    lane = player.lanes[0]
    lane.ask(lane.shown, pointing(middle(RED), name='ball'))
    go(player, 12)
    saved = studio.save('.json', lambda lane, path: lane.save_tracks(path))
    assert 'are shown beside' in studio.take(saved, 'tracks.json')
    beside = player.lanes[1]
    until(lambda: beside.shown and beside.shown.number == 12)
    assert beside.shown.result.tracks.names == ('ball',)
    # What is written is rounded; this is what was written.
    assert np.abs(box(beside, 1) - box(lane, 1)).max() <= 0.01
    assert beside.fields() == [] and beside.accepts == frozenset()
    assert 'it takes no prompts' in beside.ask(beside.shown, pointing((5, 5))).problem
    studio.close()


@pytest.mark.parametrize('player', [{'length': 8, 'broken': (2, 3)}], indirect=True)
def test_images_that_cannot_be_used_are_told_and_passed_over(player):
    go(player, 7)
    texts = [notice.text for notice in player.lanes[0].notices()]
    assert 'image 2: damaged' in texts and 'image 3: damaged' in texts
    player.seek(3)
    until(lambda: player.position == 3)
    assert player.lanes[0].shown.number == 1, 'the last one that could be used'


@pytest.mark.parametrize('player', [{'length': 20, 'ends': 6}], indirect=True)
def test_a_recording_that_vanishes_ends_there(player):
    player.seek(19)
    until(lambda: player.at_end)
    assert player.position == 5 and player.length == 6
    errors = [each.text for each in player.lanes[0].notices() if each.level == 'error']
    assert errors == ['the recording breaks off: OSError: the disk is gone']


def test_a_mistake_in_one_image_does_not_end_it(player, monkeypatch):
    method = player.lanes[0].recorded.method
    encode = method.encode

    def failing(frames):
        if frames[0].stamp_ns == frame(3).stamp_ns:
            raise ZeroDivisionError('a mistake')
        return encode(frames)

    monkeypatch.setattr(method, 'encode', failing)
    player.seek(6)
    until(lambda: player.position == 6)
    texts = [notice.text for notice in player.lanes[0].notices()]
    assert 'image 3: ZeroDivisionError: a mistake' in texts


def test_a_mistake_in_showing_an_image_does_not_end_the_player(player, monkeypatch):
    def failing(index):
        raise ZeroDivisionError('a mistake')

    go(player, 4)
    with monkeypatch.context() as patch:
        patch.setattr(player.lanes[0].recorded.history, 'at', failing)
        player.seek(2)
        errors = until(lambda: [n for n in player.lanes[0].notices() if n.level == 'error'])
    assert errors[0].text == 'a mistake: ZeroDivisionError: a mistake'
    go(player, 3)
    assert player.lanes[0].shown.number == 3


def test_a_flood_is_refused(player):
    studio = Studio(settings())
    with pytest.raises(PromptError, match='too much at once'):
        for _ in range(1000):
            studio.admit()
    studio.close()
    gate = threading.Event()
    waiting = [threading.Thread(target=player.do, args=(gate.wait,), daemon=True)]
    waiting += [
        threading.Thread(target=player.do, args=(lambda: None,), daemon=True) for _ in range(16)
    ]
    for thread in waiting:
        thread.start()
    until(lambda: player._jobs.full())
    with pytest.raises(BusyError, match='still busy'):
        player.do(lambda: None)
    gate.set()
    for thread in waiting:
        thread.join()


def test_files_that_are_none_are_refused_under_the_name_they_came_with(player, tmp_path):
    studio = Studio(settings())

    def take(name, data):
        path = studio.temporary(name[name.index('.') :])
        path.write_bytes(data)
        return studio.take(path, name)

    with pytest.raises(SourceError, match=r'notes\.txt is no recording'):
        take('notes.txt', b'hello')
    with pytest.raises(SourceError, match=r'^film\.mp4 is neither a bag nor a readable video'):
        take('film.mp4', b'no film')
    with pytest.raises(SourceError, match=r'^old\.mcap'):
        take('old.mcap', b'garbage')
    with pytest.raises(SourceError, match='there is no recording'):
        take('prompts.json', b'{}')
    studio.player = player
    for text in ('{}', 'null', '[' * 100_000, 'garbage'):
        with pytest.raises(SourceError, match=r'^some\.json has neither prompts nor tracks'):
            take('some.json', text.encode())
    wrong = json.dumps({'format': 'masa_ros.prompts/1', 'prompts': [{'points': [[1]]}]})
    with pytest.raises(SourceError, match=r'^some\.json, prompt 0'):
        take('some.json', wrong.encode())
    studio.player = None
    studio.close()


def test_the_catalogue_knows_when_objects_were_there():
    catalogue = Catalogue()
    image = np.zeros((40, 60, 3), np.uint8)
    for index in (0, 1, 2, 5, 6, 6):
        tracks = Instances(
            boxes=np.array([(5, 5, 20, 20), (30, 5, 50, 30)], np.float32),
            track_ids=np.array([3, 9]),
            states=np.array([TrackState.TRACKED, TrackState.LOST], np.uint8),
        )
        catalogue.take(index, Result(Frame(image, index * 10), tracks))
    (seen,) = catalogue.listed()
    assert (seen.track_id, seen.runs, seen.frames) == (3, [(0, 2), (5, 6)], 5)
    assert (seen.first_ns, seen.last_ns) == (0, 60)
    assert bar(seen, 0, 9).count('<rect') == 2 and bar(seen, 3, 4).count('<rect') == 0


def test_a_shelf_keeps_what_there_is_room_for():
    shelf = Shelf(10)
    assert shelf.put(4, b'abc') and shelf.put(4, b'defg') and shelf[4] == b'defg'
    assert not shelf.put(5, b'four') and 5 not in shelf and 4 in shelf
    shelf.clear()
    assert 4 not in shelf and shelf.put(5, b'four')
    shelf.close()


def test_a_picture_is_drawn_once_for_all_who_look(player, monkeypatch):
    lane = player.lanes[0]
    drawn = Drawn(lane)
    first = drawn.jpeg()
    assert drawn.jpeg() is first
    go(player, 2)
    assert drawn.jpeg() is not first


def test_the_smallest_object_under_a_click_is_meant():
    hole = np.ones((40, 40), bool)
    hole[10:20, 10:20] = False
    tracks = Instances(
        boxes=np.array([(0, 0, 100, 100), (10, 10, 50, 50)], np.float32),
        masks=(None, Mask(10, 10, hole)),
        track_ids=np.array([1, 2]),
    )
    assert under(tracks, (40, 40)) == 2 and under(tracks, (25, 25)) == 1
    assert under(tracks, (90, 90)) == 1 and under(tracks, (200, 5)) == 0


def test_a_stroke_becomes_points_of_equal_distance():
    points = along([(0, 0), (1, 0), (1, 0), (100, 0), (100, 100)])
    assert len(points) == 24 and points[0].tolist() == [0, 0]
    assert points[-1].tolist() == [100, 100]
    steps = np.abs(np.diff(points, axis=0)).sum(1)
    assert steps.max() - steps.min() < 1e-3
    assert len(along([(0, 0), (5, 0)])) == 2


def test_a_page_sets_no_option_that_names_a_file():
    fields = {f.name: f for f in map(_field, options.listed(Settings))}
    free = {name for name, field in fields.items() if isinstance(field.value, str)}
    assert {'weights', 'calibration', 'camera_size'} <= free
    assert {name for name in free if not fields[name].fixed and not fields[name].choices} == {
        'words'
    }
    with pytest.raises(ValueError, match='cannot be set here'):
        fields['weights'].read('/etc/passwd')
    with pytest.raises(ValueError, match='2001 characters'):
        fields['words'].read('x' * 2001)
    assert fields['held_frames'].read('12') == 12 and fields['masks'].read(0) is False


def _field(each):
    return Field(each.name, each.text, each.default, choices=each.choices, live=each.live)


# Who may come in


def ask(guard_token, path='/', query='', kind='http', method='GET', **headers):
    """Send a request through a guard; returns what was answered, or 'in' for one let through."""
    answers = []

    async def inside(scope, receive, send):
        answers.append('in')

    async def send(message):
        answers.append(message)

    scope = {
        'type': kind,
        'method': method,
        'path': path,
        'query_string': query.encode(),
        'headers': [(k.replace('_', '-').encode(), v.encode()) for k, v in headers.items()],
    }
    asyncio.run(Guard(inside, guard_token, 1 << 20)(scope, None, send))
    return answers


def status(answers):
    first = answers[0]
    if first == 'in' or first['type'] == 'websocket.close':
        return first if first == 'in' else 'closed'
    return first['status']


def test_on_this_machine_no_token_is_needed_but_a_name_of_this_machine():
    assert status(ask('', host='localhost:8765')) == 'in'
    assert status(ask('', host='127.0.0.1:8765')) == 'in'
    assert status(ask('', host='[::1]:8765')) == 'in'
    assert status(ask('', host='evil.example:8765')) == 403, 'a name made to lead here'
    assert status(ask('')) == 403


def test_pages_of_others_reach_nothing():
    origin = 'http://evil.example'
    for kind, refused in (('http', 403), ('websocket', 'closed')):
        assert status(ask('', kind=kind, host='localhost:8765', origin=origin)) == refused
        own = 'http://localhost:8765'
        assert status(ask('', kind=kind, host='localhost:8765', origin=own)) == 'in'


def test_elsewhere_the_token_is_needed_and_becomes_a_cookie():
    for kind, refused in (('http', 403), ('websocket', 'closed')):
        assert status(ask('secret', kind=kind, host='robot:8765')) == refused
        cookie = {'cookie': 'masa_ros_token=wrong'}
        assert status(ask('secret', kind=kind, host='robot:8765', **cookie)) == refused
        cookie = {'cookie': 'other=1; masa_ros_token=secret'}
        assert status(ask('secret', kind=kind, host='robot:8765', **cookie)) == 'in'
    assert status(ask('secret', query='token=wrong', host='robot:8765')) == 403
    answer = ask('secret', query='token=secret', host='robot:8765')
    assert status(answer) == 303
    headers = dict(answer[0]['headers'])
    assert headers[b'location'] == b'/' and b'HttpOnly' in headers[b'set-cookie']
    assert b'token is missing or wrong' in ask('secret', host='robot:8765')[1]['body']


def test_what_is_brought_has_a_length_and_a_limit():
    at = {'host': 'localhost', 'method': 'POST'}
    assert status(ask('', **at, content_length='100')) == 'in'
    assert status(ask('', **at, content_length=str(2 << 20))) == 413
    assert status(ask('', **at)) == 413


def test_which_hosts_are_this_machine():
    assert all(map(is_loopback, ('127.0.0.1', '127.3.2.1', 'localhost', '::1', '[::1]')))
    assert not any(map(is_loopback, ('0.0.0.0', '::', '192.168.0.7', 'robot', '')))


@pytest.mark.parametrize(
    'words, told',
    [
        ('studio nowhere.mcap', 'nowhere.mcap does not exist'),
        ('studio x.mcap --ros', 'one of both'),
        ('studio --prompts p.json', '--prompts needs a SOURCE'),
        ('studio --host 203.0.113.7', 'cannot listen on 203.0.113.7'),
        ('studio --port 99999', 'cannot listen on'),
    ],
)
def test_mistakes_on_the_command_line(words, told, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments = words.split()
    if '--port' not in arguments:
        arguments += ['--port', '0']
    assert main(arguments) == 2
    assert told in capsys.readouterr().err
