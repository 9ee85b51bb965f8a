# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Fleets without Ray: what recordings there are, their folder, their table, their scores."""

import argparse
import contextlib
import http.server
import json
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet
import pytest
import trackeval
import yaml
from fleet_kit import OPTIONS, made_fleet, make_recordings

from masa_ros import cli
from masa_ros.cluster import one_line
from masa_ros.errors import ConfigError, SourceError
from masa_ros.evaluation import metrics
from masa_ros.evaluation.fleet import truth_for
from masa_ros.fleet import command
from masa_ros.fleet.sources import fetched, find_recordings, recordings_among
from masa_ros.fleet.work import Recording, Tracker
from masa_ros.recordings.fleet_folder import FleetFolder, write_json
from masa_ros.recordings.table import COLUMNS, SCHEMA, write_table
from masa_ros.recordings.tracks_file import read_tracks, write_tracks
from masa_ros.streams.stream import StreamConfig

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = (ROOT / 'docs/fleet.md').read_text()


def arguments_of(*words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser, list(words))
    return parser.parse_args(words)


def without_ray(monkeypatch):
    """Do what workers do in this process, one recording after the other."""

    @contextlib.contextmanager
    def joined(config):
        yield

    def spread(work, tasks, config, tell, began):
        began(work.begin())
        for key, task in tasks.items():
            for attempt in range(1, config.attempts + 1):
                try:
                    value, problem = work.do(task, attempt), ''
                    break
                except SourceError as error:
                    value, problem = None, one_line(error)
            yield command.cluster.Outcome(key, value, problem, attempt)

    monkeypatch.setattr(command.cluster, 'joined', joined)
    monkeypatch.setattr(command.cluster, 'spread', spread)


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    """A fleet of three recordings with ground truth that is done: its folder, its sources."""
    root = tmp_path_factory.mktemp('fleet')
    make_recordings(root / 'source', ['one', 'two', 'three'], frames=8)
    words = ['fleet', str(root / 'source'), '--output', str(root / 'out'), *OPTIONS]
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        assert cli.main([*words, '--ground-truth', str(root / 'source/truth')]) == 0
    return root


def named(found):
    return [Path(place).name for place in found.values()]


def test_recordings_are_found_in_folders_patterns_lists_and_urls(tmp_path):
    make_recordings(tmp_path / 'day', ['r10', 'r9'])
    (tmp_path / 'day/frames').mkdir()
    for number in range(2):
        (tmp_path / f'day/frames/{number}.png').write_bytes(b'')
    (tmp_path / 'day/bag').mkdir()
    for name in ('bag/metadata.yaml', 'bag/bag_0.mcap', 'clip.mp4', 'notes.txt', '.hidden.mcap'):
        (tmp_path / 'day' / name).write_bytes(b'')
    every = ['bag', 'clip.mp4', 'frames', 'r9.mcap', 'r10.mcap']
    found = find_recordings([str(tmp_path / 'day')])
    assert named(found) == every
    assert named(find_recordings([f'file://{tmp_path}/day'])) == every
    assert named(find_recordings([f'{tmp_path}/*/r*'])) == ['r9.mcap', 'r10.mcap']
    assert named(find_recordings([f'{tmp_path}/**/*.mcap'])) == [
        'bag_0.mcap',
        'r9.mcap',
        'r10.mcap',
    ]
    (tmp_path / 'list').write_text('# mine\nday/r9.mcap\n\nday/bag\nday/r9.mcap\nday/gone.mcap\n')
    listed = find_recordings([f'@{tmp_path}/list'])
    assert named(listed) == ['r9.mcap', 'bag', 'gone.mcap']
    # A name is that of the place, whatever else there is.
    assert {name: found.get(name) for name in list(listed)[:2]} == dict(list(listed.items())[:2])
    assert list(find_recordings([str(tmp_path / 'day/r9.mcap')])) == list(listed)[:1]


def test_two_recordings_of_one_name_have_two_names(tmp_path):
    for folder in 'ab':
        make_recordings(tmp_path / folder, ['cam'])
    names = list(find_recordings([str(tmp_path)]))
    assert len(set(names)) == 2 and all(re.fullmatch('cam-[0-9a-f]{8}', each) for each in names)


def test_what_a_fleet_wrote_is_no_recording():
    files = [
        'recording=a-1/tracks.mcap',
        'recording=a-1/overlay.mp4',
        '.part/x/tracks.mcap',
        'a.mcap',
    ]
    assert recordings_among(files) == ['a.mcap']


@pytest.mark.parametrize(
    'source, words',
    [
        ('gone.mcap', 'gone.mcap does not exist'),
        ('*.mcap', 'nothing matches'),
        ('empty', 'empty holds no recording'),
        ('@gone', 'gone: the list cannot be read'),
        ('file://HERE/gone', 'gone does not exist'),
        ('file://HERE/empty', 'empty holds no recording'),
        ('nothing://bucket/x', 'cannot be opened'),
        ('s3://key:secret@bucket/x', 'a URL with a password'),
    ],
)
def test_sources_that_are_not_there_are_told_in_one_line(
    tmp_path, capsys, monkeypatch, source, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    source = source.replace('HERE', str(tmp_path))
    assert cli.main(['fleet', source, '--output', str(tmp_path / 'out')]) == 2
    told = capsys.readouterr().err
    assert words in told and told.count('\n') == 1 and 'secret' not in told
    assert not (tmp_path / 'out').exists()


def test_wrong_credentials_are_told_in_one_line(tmp_path, capsys, monkeypatch):
    """By a server that speaks like S3 and refuses."""

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = (
                b'<?xml version="1.0"?><Error><Code>InvalidAccessKeyId</Code>'
                b'<Message>The key does not exist</Message></Error>'
            )
            self.send_response(403)
            self.send_header('Content-Length', str(len(body)))
            self.send_header('Content-Type', 'application/xml')
            self.end_headers()
            if self.command == 'GET':
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'):
        monkeypatch.setenv(name, 'wrong')
    port = server.server_address[1]
    url = f's3://bucket/day?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1'
    try:
        assert cli.main(['fleet', url, '--output', str(tmp_path / 'out')]) == 2
        told = capsys.readouterr().err
        assert 'cannot be listed' in told and 'ACCESS_DENIED' in told and told.count('\n') == 1
        with pytest.raises(SourceError, match='cannot be fetched'), fetched(url):
            pass
    finally:
        server.shutdown()


def test_what_a_url_names_is_fetched_to_a_private_folder_and_removed(tmp_path, monkeypatch):
    scratch = tmp_path / 'scratch'
    scratch.mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(scratch))
    (file,) = make_recordings(tmp_path / 'day', ['a'])
    dead = scratch / 'masa_ros_fleet_dead'  # of a worker that was killed
    dead.mkdir()
    (dead / '.lock').touch()
    for url, inside in ((f'file://{file}', ''), (f'file://{tmp_path}/day', 'a.mcap')):
        with fetched(url) as path:
            (folder,) = scratch.iterdir()
            assert folder.stat().st_mode & 0o777 == 0o700 and path.is_relative_to(folder)
            assert (path / inside).read_bytes() == file.read_bytes()
            with fetched(url):  # of another worker, alive
                assert folder.is_dir()
        assert not list(scratch.iterdir())
    with fetched(str(file)) as path:
        assert path == file, 'a file is read where it is'


def test_two_fleets_do_not_work_in_one_folder(tmp_path, capsys):
    make_recordings(tmp_path / 'source', ['a'])
    code = (
        'import sys; from pathlib import Path\n'
        'from masa_ros.recordings.fleet_folder import FleetFolder\n'
        'with FleetFolder(Path(sys.argv[1])).locked(): print("mine", flush=True); sys.stdin.read()'
    )
    words = [sys.executable, '-c', code, tmp_path / 'out']
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == 'mine\n'
        words = ['fleet', str(tmp_path / 'source'), '--output', str(tmp_path / 'out')]
        assert cli.main(words) == 2
        told = capsys.readouterr().err
        assert f'in use by another fleet (process {other.pid} on ' in told
        assert told.count('\n') == 1
        other.kill()
    with FleetFolder(tmp_path / 'out').locked():
        pass  # the lock of a process that was killed is free


def test_another_start_needs_the_same_options_and_does_nothing_twice(done, capsys, monkeypatch):
    without_ray(monkeypatch)
    words = ['fleet', str(done / 'source'), '--output', str(done / 'out'), *OPTIONS]
    truth = ['--ground-truth', str(done / 'source/truth')]
    for more, told in (
        (['--nms-iou', '0.4'], 'was begun with nms_iou'),
        (['--max-frames', '3'], 'was begun with max_frames 0, now it is 3'),
        (['--method', 'deva'], 'was begun with method masa, now it is deva'),
    ):
        same = words[:4] if 'deva' in more else words
        assert cli.main([*same, *truth, *more]) == 2
        error = capsys.readouterr().err
        assert told in error and error.count('\n') == 1
    monkeypatch.setattr(Tracker, 'do', None)
    assert cli.main([*words, *truth]) == 0
    assert '3 of 3 recordings are done already' in capsys.readouterr().out


def test_workers_with_other_weights_or_another_folder_are_refused(tmp_path):
    folder = FleetFolder(tmp_path)
    begun = folder.begin({})
    folder.note('weights', {'weights': 'a sha256:1'})
    folder.note('weights', {'weights': 'a sha256:1'})
    with pytest.raises(ConfigError, match='weights a sha256:1, now it is a sha256:2'):
        folder.note('weights', {'weights': 'a sha256:2'})
    arguments = arguments_of('x', '--output', str(tmp_path))
    chosen = command.options.from_arguments(command.METHODS['masa'].options, arguments)
    for place, run in ((tmp_path, 'another'), (tmp_path / 'gone', begun['run'])):
        with pytest.raises(ConfigError, match='is not the same folder on'):
            Tracker(place, run, 'masa', chosen, StreamConfig()).begin()


def test_what_is_half_written_is_never_seen(done, tmp_path, monkeypatch):
    """A recording that breaks off in the middle leaves nothing; one that is there stays."""
    begun = FleetFolder(tmp_path).begin({})
    arguments = arguments_of('x', '--output', str(tmp_path), *OPTIONS)
    chosen = command.options.from_arguments(command.METHODS['masa'].options, arguments)
    tracker = Tracker(tmp_path, begun['run'], 'masa', chosen, StreamConfig())
    tracker.begin()
    recording = Recording('one', str(done / 'source/one.mcap'))
    with monkeypatch.context() as patch:

        def full(*_):
            raise OSError(28, 'No space left on device')

        patch.setattr('masa_ros.fleet.work.write_table', full)
        with pytest.raises(OSError, match='No space'):
            tracker.do(recording, 1)
    folder = FleetFolder(tmp_path)
    assert not folder.done() and not list((tmp_path / '.part').iterdir())

    first = tracker.do(recording, 1)
    assert first['state'] == 'done' and first['attempts'] == 1 and first['frames'] == 8
    assert tracker.do(recording, 2) == first, 'it is not done again'
    # Two at the same time: the second one finds it there.
    (tmp_path / '.part/late').mkdir()
    (tmp_path / '.part/late/manifest.json').write_text('{}')
    assert not folder.keep(tmp_path / '.part/late', 'one')
    assert folder.manifest('one') == first
    folder.sweep()
    assert not list((tmp_path / '.part').iterdir())


def test_a_worker_does_what_replay_does(done, tmp_path):
    folder = FleetFolder(done / 'out')
    for name in folder.done():
        manifest = folder.manifest(name)
        single = tmp_path / name
        words = ['replay', manifest['source'], '--output', str(single), '--no-overlay', *OPTIONS]
        truth = done / f'source/truth/{name[:-9]}.json'
        assert cli.main([*words, '--ground-truth', str(truth)]) == 0
        ours = {file.name for file in folder.of(name).iterdir()}
        theirs = {file.name for file in single.iterdir()}
        assert ours == theirs | {'tracks.parquet', 'manifest.json'}
        for file in ('tracks.json', 'tracks.mcap', 'scores.json'):
            assert (folder.of(name) / file).read_bytes() == (single / file).read_bytes(), file
        summaries = [
            json.loads((f / 'summary.json').read_text()) for f in (single, folder.of(name))
        ]
        for summary in summaries:
            summary.pop('latency_ms_p50'), summary.pop('latency_ms_p99')
        assert summaries[0] == summaries[1]
        assert 'sha256' in manifest['weights']['weights'] and manifest['seconds'] > 0


def test_the_table_holds_what_tracks_json_holds(done, tmp_path):
    folder = FleetFolder(done / 'out')
    for name in folder.done():
        table = pyarrow.parquet.read_table(folder.of(name) / 'tracks.parquet')
        assert table.schema.equals(SCHEMA)
        rows, count = table.to_pylist(), 0
        for frame in read_tracks(folder.of(name) / 'tracks.json'):
            one = frame.instances
            for i, mask in enumerate(one.masks):
                row, count = rows[count], count + 1
                assert (row['frame'], row['stamp_ns']) == (frame.index, frame.stamp_ns)
                assert row['track_id'] == one.track_ids[i]
                sides = [row[side] for side in ('x_min', 'y_min', 'x_max', 'y_max')]
                np.testing.assert_array_equal(np.float32(sides), one.boxes[i])
                assert row['mask_area'] == (None if mask is None else mask.pixels.sum())
        assert count == len(rows) > 0
        write_table(folder.of(name) / 'tracks.json', tmp_path / 'again.parquet')
        again = (tmp_path / 'again.parquet').read_bytes()
        assert again == (folder.of(name) / 'tracks.parquet').read_bytes()
    write_tracks(tmp_path / 'none.json', 'none', [])
    assert write_table(tmp_path / 'none.json', tmp_path / 'none.parquet') == 0
    assert pyarrow.parquet.read_table(tmp_path / 'none.parquet').schema.equals(SCHEMA)


def test_the_document_has_the_columns_of_the_table():
    rows = re.findall(r'^\| `(\w+)` \| (\w+) \| (.+) \|$', DOCUMENT, re.MULTILINE)
    assert rows == [(name, str(kind), text) for name, kind, text in COLUMNS]


def test_the_examples_of_the_document_answer_their_questions(tmp_path, monkeypatch):
    made_fleet(tmp_path / 'out/fleet')
    monkeypatch.chdir(tmp_path)
    lost, switches = re.findall(r'```sql\n(.*?)```', DOCUMENT, re.DOTALL)
    rows = duckdb.sql(lost).fetchall()
    assert rows == [('lost-00000001', 1, 2, 7, 0.5)]
    rows = duckdb.sql(switches).fetchall()
    assert rows == [('switches-00000002', 2, 3)]


def test_the_examples_run_on_a_real_fleet(done, monkeypatch, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/fleet').symlink_to(done / 'out')
    monkeypatch.chdir(tmp_path)
    for query in re.findall(r'```sql\n(.*?)```', DOCUMENT, re.DOTALL):
        names = {row[0] for row in duckdb.sql(query).fetchall()}
        assert names <= set(FleetFolder(done / 'out').done())
    path = "read_parquet('out/fleet/recording=*/tracks.parquet', hive_partitioning = true)"
    ((count,),) = duckdb.sql(f'SELECT count(DISTINCT recording) FROM {path}').fetchall()
    assert count == 3


def test_a_fleet_is_scored_as_one_set_and_not_by_a_mean(done, tmp_path, capsys):
    page, file = tmp_path / 'page.html', tmp_path / 'scores.json'
    words = ['evaluate', '--fleet', str(done / 'out'), '--page', str(page), '--output', str(file)]
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    figures = json.loads(file.read_text())
    worst_first = [each['hota'] for each in figures['recordings'].values()]
    assert worst_first == sorted(worst_first) and len(worst_first) == 3
    assert [line.split()[0] for line in lines[1:5]] == ['all', *figures['recordings']]
    # By TrackEval itself, from the tracks.
    folder, sequences, everything = FleetFolder(done / 'out'), {}, {}
    kinds = [trackeval.metrics.HOTA, trackeval.metrics.Identity, trackeval.metrics.CLEAR]
    for name in folder.done():
        found = read_tracks(folder.of(name) / 'tracks.json')
        truth = read_tracks(done / f'source/truth/{name[:-9]}.json')
        pairs, similarity = metrics.pair(found, truth)
        everything[name] = metrics.measure(pairs, similarity)
        ids = [metrics._consecutive([getattr(p, k) for p in pairs]) for k in ('truth', 'claims')]
        data = {
            **{'num_timesteps': len(pairs), 'gt_ids': ids[0], 'tracker_ids': ids[1]},
            'num_gt_ids': len({int(i) for p in pairs for i in p.truth.track_ids}),
            'num_tracker_ids': len({int(i) for p in pairs for i in p.claims.track_ids}),
            'num_gt_dets': sum(map(len, ids[0])),
            'num_tracker_dets': sum(map(len, ids[1])),
            'similarity_scores': [p.overlap for p in pairs],
        }
        sequences[name] = [kind().eval_sequence(data) for kind in kinds]
    hota, identity, clear = (
        kind().combine_sequences({name: each[i] for name, each in sequences.items()})
        for i, kind in enumerate(kinds)
    )
    every = figures['all']
    assert every['hota'] == pytest.approx(np.mean(hota['HOTA']), abs=1e-12)
    assert every['assa'] == pytest.approx(np.mean(hota['AssA']), abs=1e-12)
    assert every['idf1'] == pytest.approx(identity['IDF1'], abs=1e-12)
    assert every['mota'] == pytest.approx(clear['MOTA'], abs=1e-12)
    assert every['id_switches'] == clear['IDSW']
    assert every['hota'] != pytest.approx(np.mean(worst_first), abs=1e-9), 'no mean of means'
    # J and F are weighted by objects.
    weights = np.array([scores.objects for scores, _ in everything.values()])
    mean = (weights * [scores.jf for scores, _ in everything.values()]).sum() / weights.sum()
    assert every['jf'] == pytest.approx(mean) and every['loca'] is None
    # Through json and back nothing is lost; one recording alone is what it is by itself.
    for name, (scores, parts) in everything.items():
        alone = metrics.combine({name: (scores, json.loads(json.dumps(parts)))})
        for key in ('hota', 'idf1', 'mota', 'id_switches', 'jf', 'track_ap', 'ar100'):
            assert getattr(alone, key) == pytest.approx(getattr(scores, key), abs=1e-12), key
        assert json.loads((folder.of(name) / 'scores.json').read_text())['scores'] == vars(scores)
    text = page.read_text()
    links = re.findall('href="([^"]+)"', text)
    assert len(links) == 3
    for link, name in zip(links, figures['recordings']):
        target = (page.parent / link.replace('%3D', '=')).resolve()
        assert target == (folder.of(name) / 'evaluation.html').resolve() and target.is_file()

    # The same with the truth given later.
    again = tmp_path / 'again.json'
    words = ['evaluate', '--fleet', str(done / 'out'), '--output', str(again)]
    pattern = '{folder}/truth/{stem}.json'
    assert cli.main([*words, '--ground-truth', pattern]) == 0
    assert json.loads(again.read_text())['all'] == pytest.approx(every)


@pytest.mark.parametrize(
    'words, told',
    [
        (['--fleet', 'DIR'], 'no recording has ground truth'),
        (['--fleet', 'gone'], 'gone holds no fleet'),
        (['--fleet', 'DIR', '--ground-truth', 'one.json'], 'a folder, or a path with {stem}'),
        (['--fleet', 'DIR', '--palindrome'], '--palindrome is for one recording'),
        (['--fleet', 'BAD'], 'scores.json cannot be read'),
    ],
)
def test_what_cannot_be_scored_is_told(tmp_path, capsys, words, told):
    for name in ('DIR', 'BAD'):
        folder = FleetFolder(tmp_path / name)
        folder.begin({})
        folder.of('a').mkdir()
        write_json(folder.of('a') / 'manifest.json', {'source': '/gone/a.mcap', 'state': 'done'})
    (tmp_path / 'BAD/recording=a/scores.json').write_text('{"scores": {}}')
    names = {'DIR': str(tmp_path / 'DIR'), 'BAD': str(tmp_path / 'BAD')}
    assert cli.main(['evaluate', *(names.get(word, word) for word in words)]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count('\n') == 1


def test_the_truth_of_a_recording_is_found_by_its_name(tmp_path):
    for name in ('truth/a.json', 'truth/b.txt', 'day1/gt.txt'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / 'truth/c').mkdir()
    folder = str(tmp_path / 'truth')
    assert truth_for(folder, '/x/a.mcap') == tmp_path / 'truth/a.json'
    assert truth_for(folder, 's3://bucket/x/b.mp4?region=x') == tmp_path / 'truth/b.txt'
    assert truth_for(folder, '/x/c') == tmp_path / 'truth/c'
    assert truth_for(folder, '/x/d.mcap') is None
    assert truth_for('{folder}/gt.txt', f'{tmp_path}/day1/cam.mcap') == tmp_path / 'day1/gt.txt'


def test_the_manifests_of_the_document_are_yaml():
    kinds = []
    for name in ('ray-cluster.yaml', 'kuberay.yaml'):
        kinds += list(yaml.safe_load_all((ROOT / 'docs/fleet' / name).read_text()))
    assert [each.get('kind') for each in kinds] == [None, 'RayJob']
    cluster, job = kinds
    assert cluster['head_node_type'] in cluster['available_node_types']
    assert 'masa_ros fleet ' in job['spec']['entrypoint']
    groups = job['spec']['rayClusterSpec']['workerGroupSpecs']
    mounts = [c['volumeMounts'] for g in groups for c in g['template']['spec']['containers']]
    assert all(mount for mount in mounts), 'the output is shared'
    for name in re.findall(r'\]\((fleet/[^)]+)\)', DOCUMENT):
        assert (ROOT / 'docs' / name).is_file()


def test_the_help_is_short_and_a_mistake_is_named(capsys):
    for words, code in ((['--help'], 0), (['--help-all'], 0), (['x', '--outptu', 'y'], 2)):
        with pytest.raises(SystemExit) as stop:
            cli.main(['fleet', *words])
        assert stop.value.code == code
    told = capsys.readouterr()
    short, full = told.out.split('usage: ')[1:]
    for name in ('--output', '--address', '--worker-gpus', '--ground-truth', '--help-all'):
        assert name in short
    assert '--attempts' in full and '--attempts' not in short
    assert 'there is no option --outptu; did you mean --output?' in told.err
