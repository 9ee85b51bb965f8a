# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Fleets on real Ray clusters of local nodes: killed, poisoned, full, and gone on with."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip('ray')
# Before Ray is imported: it listens on the loopback alone, and sends nothing.
os.environ['RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER'] = '0'
os.environ['RAY_USAGE_STATS_ENABLED'] = '0'

import cv2
import fleet_kit
import ray
from conftest import scene
from fleet_kit import OPTIONS, Light, make_recordings
from ray.cluster_utils import Cluster
from safetensors.torch import load_file
from test_training import draw_photos

import masa_ros
from masa_ros import cli
from masa_ros.cluster import ClusterConfig, joined, resources, spread
from masa_ros.errors import ConfigError, MasaError
from masa_ros.fleet import command
from masa_ros.recordings.fleet_folder import FleetFolder

HERE = Path(__file__).resolve().parent
MEMORY = 80 << 20  # bytes of an object store

pytestmark = pytest.mark.timeout(900)  # processes that all load torch, on what others leave


def new_cluster(patch, nodes, slots=1):
    """Start a head without room for workers, and nodes with room for some."""
    patch.setenv('PYTHONPATH', str(HERE), prepend=os.pathsep)  # of the classes of fleet_kit
    patch.setenv('OMP_NUM_THREADS', '1')
    made = Cluster(
        initialize_head=True,
        head_node_args={'num_cpus': 0, 'object_store_memory': MEMORY, 'include_dashboard': False},
    )
    for _ in range(nodes):
        made.add_node(num_cpus=slots, object_store_memory=MEMORY)
    made.wait_for_nodes()
    return made


@pytest.fixture(scope='module')
def cluster():
    """Two nodes; what a test kills there it puts back."""
    with pytest.MonkeyPatch.context() as patch:
        made = new_cluster(patch, nodes=2)
        yield made
        ray.shutdown()
        made.shutdown()


def until(condition, process=None, seconds=600):
    """Wait, not for a time but for something to happen."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'it never happened'
        assert process is None or process.poll() is None, 'the command ended'
        time.sleep(0.05)


def fleet(cluster, source, output, *more):
    words = ('fleet', source, '--output', output, '--address', cluster.address)
    return [*map(str, words), *OPTIONS, *more]


def test_nodes_are_killed_and_everything_is_done_once_as_single_replays_do_it(
    tmp_path, cluster, capsys, monkeypatch
):
    """The node of a recording is killed, then the whole cluster; another start goes on."""
    names = ['a', 'b', 'c', 'd', 'wait1', 'wait2', 'wait3']
    files = make_recordings(tmp_path / 'source', names)
    first = new_cluster(monkeypatch, nodes=2)
    output = tmp_path / 'out'
    environment = os.environ | {'RAY_gcs_rpc_server_reconnect_timeout_s': '5'}
    words = fleet(first, tmp_path / 'source', output)
    with (tmp_path / 'log').open('w') as log:
        driver = subprocess.Popen(
            [sys.executable, HERE / 'fleet_kit.py', *words],
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        until(lambda: len(list(tmp_path.glob('began-*'))) == 2, driver)
        begun = next(tmp_path.glob('began-*')).name.rpartition('-')[2]
        victim = next(n for n in first.worker_nodes if n.unique_id == begun or n.node_id == begun)
        first.remove_node(victim, allow_graceful=False)
        folder = FleetFolder(output)
        done = {name: folder.of(name).stat() for name in folder.done()}
    finally:
        first.shutdown()
        driver.kill()
        driver.wait()
    assert [name[:-9] for name in done] == ['a', 'b', 'c', 'd'], (tmp_path / 'log').read_text()

    (tmp_path / 'open').touch()
    assert cli.main(fleet(cluster, tmp_path / 'source', output)) == 0
    told = capsys.readouterr().out
    assert '4 of 7 recordings are done already' in told
    assert sorted(name[:-9] for name in folder.done()) == names
    assert not list((output / '.part').iterdir()), 'what was half written is gone'
    for name, before in done.items():
        after = folder.of(name).stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns), 'twice'
    rows = [json.loads(line) for line in (output / 'manifest.jsonl').read_text().splitlines()]
    assert [row['state'] for row in rows] == ['done'] * 7
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for file, row in zip(files, rows, strict=True):
        single = tmp_path / 'single' / file.stem
        words = ['replay', str(file), '--output', str(single), '--no-overlay', *OPTIONS]
        assert cli.main(words) == 0
        for each in ('tracks.json', 'tracks.mcap'):
            ours = (folder.of(row['recording']) / each).read_bytes()
            assert ours == (single / each).read_bytes(), f'{file.stem}: {each} differs'
    torch.set_num_threads(threads)


def test_what_fails_is_listed_and_the_others_go_on(tmp_path, cluster, capsys, monkeypatch):
    source = tmp_path / 'source'
    make_recordings(source, ['good', 'last', 'poison'])
    (source / 'broken.mcap').write_bytes(b'no bag')
    (source / 'list.txt').write_text(
        'good.mcap\nbroken.mcap\n# a comment\npoison.mcap\ngone.mcap\n'
    )
    monkeypatch.setattr(command, 'Tracker', fleet_kit.Dying)
    words = fleet(cluster, f'@{source}/list.txt', tmp_path / 'out', '--attempts', '2')
    assert cli.main([*words[:2], str(source / 'last.mcap'), *words[2:]]) == 1
    told = capsys.readouterr().out
    assert f'failed: {source}/broken.mcap: {source}/broken.mcap is not a readable bag' in told
    assert f'failed: {source}/poison.mcap: its process died' in told
    assert f'failed: {source}/gone.mcap: {source}/gone.mcap does not exist' in told
    assert '2 of 5 recordings are done' in told
    rows = [json.loads(r) for r in (tmp_path / 'out/manifest.jsonl').read_text().splitlines()]
    states = {row['recording'][:-9]: (row['state'], row['attempts']) for row in rows}
    assert states['good'] == states['last'] == ('done', 1)
    assert states['broken'] == states['gone'] == states['poison'] == ('failed', 2)

    # Another start tries again what failed.
    make_recordings(source, ['broken', 'gone'])
    monkeypatch.undo()
    assert cli.main([*words[:2], str(source / 'last.mcap'), *words[2:]]) == 0
    assert not list((tmp_path / 'out/failed').iterdir())
    assert len(FleetFolder(tmp_path / 'out').done()) == 5


def test_a_full_disk_stops_it_in_one_line(tmp_path, cluster, capsys, monkeypatch):
    make_recordings(tmp_path / 'source', ['a', 'b', 'c'])
    monkeypatch.setattr(command, 'Tracker', fleet_kit.Full)
    words = fleet(cluster, tmp_path / 'source', tmp_path / 'out', '--workers', '1')
    assert cli.main(words) == 2
    told = capsys.readouterr().err
    assert told.startswith('masa_ros fleet: [Errno 28] No space left on device')
    assert told.endswith('make room and start again, it goes on\n') and told.count('\n') == 1
    rows = [json.loads(r) for r in (tmp_path / 'out/manifest.jsonl').read_text().splitlines()]
    assert [row['state'] for row in rows] == ['waiting'] * 3, 'nothing is counted against them'


def test_a_task_whose_node_dies_is_done_on_another_one(tmp_path, cluster):
    config = ClusterConfig(cluster.address, workers=2)
    with joined(config):
        outcomes = spread(Light(), {'stays': tmp_path, 'one': 1}, config)
        first = next(outcomes)
        assert first.key == 'one' and first.value[1] == 1 and not first.problem
        until(lambda: any(tmp_path.iterdir()))
        name = next(tmp_path.iterdir()).name.removeprefix('at-')
        victim = next(n for n in cluster.worker_nodes if n.node_id == name)
        cluster.remove_node(victim, allow_graceful=False)
        (second,) = outcomes
    assert (second.key, second.attempts, second.problem) == ('stays', 2, '')
    cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    cluster.wait_for_nodes()


def test_a_mistake_and_a_death_cost_their_own_task_only(cluster):
    config = ClusterConfig(cluster.address, workers=1, attempts=2)
    tasks = {'die': 'die', 'mistake': 'mistake', **{f'{i}': i for i in range(5)}}
    with joined(config):
        found = {each.key: each for each in spread(Light(), tasks, config)}
    assert found.keys() == tasks.keys()
    assert found['die'].problem == 'its process died' and found['die'].attempts == 2
    assert found['mistake'].problem == 'a mistake in masa_ros: ZeroDivisionError: by zero'
    numbers = [found[f'{i}'] for i in range(5)]
    assert all(each.attempts == 1 and not each.problem for each in numbers)
    assert len({each.value[0] for each in numbers}) == 1, 'one worker keeps what it loaded'


def test_workers_see_the_gpu_that_they_share_and_others_see_none(cluster):
    """By a node that says that it has one; no GPU is used."""
    node = cluster.add_node(num_cpus=4, num_gpus=1, object_store_memory=MEMORY)
    cluster.wait_for_nodes()
    with joined(ClusterConfig(cluster.address)):
        for share, most in ((-1.0, 1), (0.5, 2), (0.0, 6)):
            config = ClusterConfig(cluster.address, worker_gpus=share)
            assert resources(config)[2] == most
        for share, seen in ((0.5, '0'), (0.0, '')):
            config = ClusterConfig(cluster.address, workers=1, worker_gpus=share)
            assert [each.value for each in spread(Light(), {'a': 'devices'}, config)] == [seen]
    cluster.remove_node(node)


class Unable(Light):
    def begin(self):
        raise ConfigError('no weights here')


def test_workers_that_cannot_begin_end_it(cluster):
    config = ClusterConfig(cluster.address)
    with joined(config), pytest.raises(MasaError, match='no worker can begin: no weights here'):
        list(spread(Unable(), {'a': 1}, config))


def test_a_cluster_that_is_not_there_is_told(tmp_path, capsys, monkeypatch):
    make_recordings(tmp_path / 'source', ['a'])
    monkeypatch.setenv('RAY_gcs_rpc_server_reconnect_timeout_s', '1')
    words = ['fleet', str(tmp_path / 'source'), '--output', str(tmp_path / 'out'), *OPTIONS]
    assert cli.main([*words, '--address', 'nowhere']) == 2
    assert 'masa_ros fleet: no Ray cluster at nowhere: ' in capsys.readouterr().err


def test_what_is_started_on_this_machine_listens_on_the_loopback_alone():
    """Ray runs whatever is sent to its ports, so nobody else may reach them."""
    code = """
import contextlib
from masa_ros.cluster import ClusterConfig, joined, spread
config = ClusterConfig(workers=1)
with joined(config):
    import fleet_kit, psutil
    (one,) = spread(fleet_kit.Light(), {'a': 1}, config)
    assert one.value[1] == 1
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # the worker, which is ending
            for each in process.net_connections():
                if each.status == 'LISTEN':
                    print('listens on', each.laddr.ip)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith('RAY_')}
    result = subprocess.run(
        [sys.executable, '-c', code],
        env=environment | {'PYTHONPATH': str(HERE)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert result.returncode == 0, result.stderr
    hosts = set(re.findall(r'^listens on (.*)$', result.stdout, re.MULTILINE))
    assert hosts and hosts <= {'127.0.0.1', '::1', '::ffff:127.0.0.1'}, hosts
    assert len(result.stdout.split()) >= 3, 'its servers are among them'


def test_proposals_over_a_cluster_are_those_of_one_process(tmp_path, cluster, capsys, monkeypatch):
    photos = tmp_path / 'photos'
    photos.mkdir()
    for number in range(3):
        cv2.imwrite(str(photos / f'{number}.png'), scene(10 * number))
    (photos / 'broken.png').write_bytes(b'no image')
    monkeypatch.setattr('masa_ros.training.proposals_writing._A_FILE', 2)
    weights = Path(masa_ros.__file__).parent / 'weights/masa_nano.safetensors'
    words = ['proposals', '--images', str(photos), '--device', 'cpu']
    words += ['--teacher', f'masa_nano={weights.resolve()}']
    spread_words = ['--spread', '--address', cluster.address, '--workers', '1']
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert cli.main([*words, '--output', str(tmp_path / 'one')]) == 0
    torch.set_num_threads(threads)
    one = capsys.readouterr().out
    assert cli.main([*words, '--output', str(tmp_path / 'many'), *spread_words]) == 0
    many = capsys.readouterr().out
    assert one.replace('/one', '/many') == many and 'broken.png' in many
    files = sorted(file.name for file in (tmp_path / 'one').iterdir())
    assert files == ['proposals-00000.json', 'proposals-00001.json']
    assert sorted(file.name for file in (tmp_path / 'many').iterdir()) == files
    for name in files:
        assert (tmp_path / 'one' / name).read_bytes() == (tmp_path / 'many' / name).read_bytes()
    assert cli.main([*words, '--output', str(tmp_path / 'many'), '--linked', *spread_words]) == 2
    assert 'in its order' in capsys.readouterr().err


def test_ray_train_starts_the_training_that_torchrun_starts(tmp_path):
    for name in ('pandas', 'tensorboardX'):
        pytest.importorskip(name, reason="Ray Train is not installed: pip install 'ray[train]'")
    (tmp_path / 'photos').mkdir()
    photos = draw_photos(tmp_path / 'photos')
    words = ['train', '--images', str(photos), '--device', 'cpu', '--precision', 'fp32']
    words += ['--steps', '2', '--pairs', '2', '--size', '128', '--threads', '1', '--output']
    spread_words = ['--spread', '--cluster-workers', '2', '--cluster-worker-cpus', '0.5']
    torchrun = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', '-m']
    environment = {k: v for k, v in os.environ.items() if not k.startswith('RAY_')}
    for start, more, output in (
        (torchrun, [], tmp_path / 'torchrun'),
        (['-m'], spread_words, tmp_path / 'ray'),
    ):
        command_line = [sys.executable, *start, 'masa_ros.cli', *words, output, *more]
        result = subprocess.run(
            command_line, env=environment, capture_output=True, text=True, timeout=250
        )
        assert result.returncode == 0, result.stdout + result.stderr
    ours, theirs = (
        load_file(tmp_path / f'{k}/masa_nano.safetensors') for k in ('ray', 'torchrun')
    )
    assert ours.keys() == theirs.keys()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
