# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The package as a whole: what is declared, documented and installed fits together."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import yaml
from conftest import scene
from masa_ros.msg import TrackedInstance, TrackedInstanceArray
from rclpy.serialization import deserialize_message, serialize_message

from masa_ros import options
from masa_ros.errors import ConfigError
from masa_ros.nodes.parameters import NodeConfig
from masa_ros.share import share_path

ROOT = Path(__file__).resolve().parents[1]


def test_a_message_survives_serialisation():
    message = TrackedInstanceArray(image_height=480, image_width=640, model='masa_nano')
    message.instances = [TrackedInstance(track_id=2**63, mask_counts=[1, 2, 3], score=0.5)]
    again = deserialize_message(serialize_message(message), TrackedInstanceArray)
    assert again == message


@pytest.mark.parametrize('name', sorted(file.stem for file in (ROOT / 'msg').glob('*.msg')))
def test_every_field_is_explained(name):
    lines = share_path(f'msg/{name}.msg').read_text().splitlines()
    explained = False
    for line in lines:
        if not line.strip():
            explained = False
        elif line.startswith('#'):
            explained = True
        else:
            explained = explained or '#' in line
            assert explained, f'{name}: {line}'


OPTIONS = options.listed(NodeConfig, every=True)


def test_the_configuration_file_sets_what_is_declared():
    text = share_path('config/tracker.yaml').read_text()
    known = {each.name: each.default for each in options.listed(NodeConfig)}
    names = '|'.join(map(re.escape, known))
    whole = re.sub(f'^    # (?=({names}): )', '    ', text, flags=re.MULTILINE)
    for document, least in ((text, 3), (whole, 12)):
        values = yaml.safe_load(document)['/**']['ros__parameters']
        assert len(values) >= least
        for name, value in values.items():
            assert known[name] == value


def test_generated_files_are_up_to_date():
    names = ('config/tracker.yaml', 'docs/parameters.md')
    before = [(ROOT / name).read_text() for name in names]
    subprocess.run([sys.executable, ROOT / 'tools' / 'parameter_tables.py'], check=True, cwd='/')
    after = [(ROOT / name).read_text() for name in names]
    assert before == after


def test_parameters_are_described_and_their_defaults_allowed():
    for each in OPTIONS:
        assert re.fullmatch('[a-z][a-z0-9_]*([.][a-z][a-z0-9_]*)?', each.name)
        assert each.text
        each.check(each.default)
        numeric = isinstance(each.default, (int, float)) and not isinstance(each.default, bool)
        assert bool(each.limits) == numeric, each.name
    assert options.build(NodeConfig, {}) == NodeConfig()


def test_the_parameters_of_before_are_all_there():
    """Names that users have in their files; a name is never taken back."""
    names = """
        autostart model weights device precision runtime warm_start camera_size calibration
        build_only input_size masks score_threshold nms_iou mask_share max_instances association
        init_score_thr obj_score_thr match_score_thr reid_score_thr distractor_score_thr
        distractor_nms_thr memo_momentum gallery_size memory_seconds memory_frames motion_weight
        predict_motion camera_motion max_distance max_resize max_speed optimal_assignment two_stage
        confirm_frames confirm_score coast_seconds coast_steady_thr coast_score_thr coast_look_thr
        vote_labels publish_tentative publish_lost released.init_score_thr released.obj_score_thr
        released.match_score_thr released.memo_tracklet_frames released.memo_momentum
        released.distractor_score_thr released.distractor_nms_thr released.max_distance
        released.fps released.memo_backdrop_frames released.nms_conf_thr
        released.nms_backdrop_iou_thr released.nms_class_iou_thr released.with_cats
        released.match_metric publish_embeddings max_rate on_time_jump silence_seconds cameras
        common_ids on_device_failure image_transport given_detections detections_slop image_qos
        image_queue tracks_qos
    """
    assert set(names.split()) <= {each.name for each in OPTIONS}


@pytest.mark.parametrize(
    'values',
    [
        {'motion_weight': 0.25, 'two_stage': False, 'nms_iou': 0.4},
        {'association': 'bdd', 'released.match_metric': 'cosine', 'released.with_cats': True},
        {'association': 'tao', 'released.max_distance': 100.0, 'cameras': ['a', 'b']},
    ],
    ids=str,
)
def test_a_configuration_survives_the_way_through_the_parameters(values):
    config = options.build(NodeConfig, values)
    assert options.values_of(config).items() >= values.items()
    assert options.build(NodeConfig, options.values_of(config)) == config


@pytest.mark.parametrize(
    'name, value', [('precision', 'int4'), ('score_threshold', -0.5), ('image_qos', 'best')]
)
def test_values_that_are_not_allowed_are_named(name, value):
    with pytest.raises(ConfigError, match=name):
        options.build(NodeConfig, {name: value})


@pytest.mark.parametrize('name', ['tracker', 'replay'])
def test_launch_files_describe_their_arguments(name):
    launch = pytest.importorskip('launch', reason='ROS launch is not on the package index')
    pytest.importorskip('launch_ros', reason='launch_ros is not on the package index')
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    source = PythonLaunchDescriptionSource(str(share_path(f'launch/{name}.launch.py')))
    description = source.get_launch_description(launch.LaunchContext())
    for argument in description.get_launch_arguments():
        assert argument.description


def test_links_in_the_documents_lead_somewhere():
    for document in [ROOT / 'README.md', *(ROOT / 'docs').glob('*.md')]:
        for target, place in re.findall(r'\]\(([^)#:\s]*)(?:#([^)\s]+))?\)', document.read_text()):
            file = document.parent / target if target else document
            assert file.exists(), f'{document.name}: {target}'
            if place and file.suffix == '.md':
                heads = re.findall(r'^#+ (.*)$', file.read_text(), re.MULTILINE)
                plain = [re.sub(r'[^\w -]', '', head.lower()).replace(' ', '-') for head in heads]
                assert place in plain, f'{document.name}: {target}#{place}'


# The rooms, lowest first: what a room imports stands above it in this list.
ROOMS = (
    *(
        {'types', 'errors'},
        {'options', 'images', 'masks', 'share'},
        {'overlay', 'codecs', 'cluster'},
    ),
    *(
        {'tracking', 'space'},
        {'recordings'},
        {'models'},
        {'engines'},
        {'detectors'},
        {'propagators', 'point_trackers'},
    ),
    *({'methods'}, {'streams'}, {'nodes'}, {'evaluation'}, {'training'}, {'replay', 'demo'}),
    {'fleet', 'studio'},
    {'cli'},
)
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
SOURCES = sorted((ROOT / 'masa_ros').rglob('*.py'))


def module_of(file):
    parts = file.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {module_of(file): file for file in SOURCES}


def imported(file):
    """Modules of the package that a file imports, wherever it does; interfaces are ROS's."""
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f'{file}: relative import'
            inside = [f'{node.module}.{alias.name}' for alias in node.names]
            names = [name if name in MODULES else node.module for name in inside]
        for name in names:
            if name.split('.')[0] == 'masa_ros' and not name.startswith(
                ('masa_ros.msg', 'masa_ros.srv')
            ):
                yield name


def test_every_file_is_in_a_room_and_imports_go_down_only():
    for file in SOURCES:
        room = module_of(file).split('.')[1:2]
        if not room:
            continue  # the package itself, which imports nothing
        for name in imported(file):
            other = name.split('.')[1:2]
            if not other:
                continue
            assert other[0] in FLOOR, f'{file}: {name} is in no room'
            fits = other == room or FLOOR[other[0]] < FLOOR[room[0]]
            assert fits, f'{file.relative_to(ROOT)} imports {name}, which is above it'


def test_no_file_imports_itself_by_a_detour():
    needs = {name: set(imported(file)) - {'masa_ros'} for name, file in MODULES.items()}
    while needs:
        free = {name for name, others in needs.items() if not others & needs.keys()}
        assert free, f'a circle among {sorted(needs)}'
        needs = {name: others for name, others in needs.items() if name not in free}


def test_only_the_node_imports_ros():
    ros = re.compile(r'^\s*(from|import) (rclpy|\w+_msgs|\w+_interfaces|std_srvs)\b', re.MULTILINE)
    for file in SOURCES:
        assert 'nodes' in file.parts or not ros.search(file.read_text()), file


def test_every_source_says_whose_it_is():
    folders = ('masa_ros', 'launch', 'include', 'scripts', 'bench', 'tools', 'test')
    files = [path for folder in folders for path in (ROOT / folder).rglob('*')]
    sources = [
        path
        for path in files
        if path.suffix in ('.py', '.hpp') or (path.parent.name == 'scripts' and path.is_file())
    ]
    assert len(sources) > 150
    for path in sources:
        if path.stat().st_size:
            assert 'SPDX-License-Identifier: Apache-2.0' in path.read_text()[:200], path


def test_no_file_is_too_long_to_read():
    for file in SOURCES:
        lines = len(file.read_text().splitlines())
        assert lines < (300 if file.stem in ('tracker_node', 'camera') else 500), file


def test_a_wheel_has_all_that_replay_needs(tmp_path):
    """What `pip install .` installs, in a folder of its own, outside the repository."""
    build = tmp_path / 'source'
    ignored = shutil.ignore_patterns('.venv', '.git', 'out', 'build', '.*cache', '__pycache__')
    shutil.copytree(ROOT, build, ignore=ignored)
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '--quiet']
    options_ = ['--no-deps', '--no-build-isolation', '--no-index']
    subprocess.run([*pip, 'wheel', *options_, '--wheel-dir', tmp_path, build], check=True)
    (wheel,) = tmp_path.glob('masa_ros-*.whl')
    home = tmp_path / 'home'
    subprocess.run(
        [*pip, 'install', *options_, '--ignore-installed', '--prefix', home, wheel], check=True
    )
    (site,) = home.rglob('site-packages')
    for name in ('msg/TrackedInstance.msg', 'launch/tracker.launch.py', 'config/tracker.yaml'):
        assert (home / 'share/masa_ros' / name).is_file()
    frames = tmp_path / 'frames'
    frames.mkdir()
    for i in range(2):
        cv2.imwrite(str(frames / f'{i}.png'), scene(i))
    code = (
        f'import sys; sys.path.insert(0, {str(site)!r}); import masa_ros; '
        f'assert masa_ros.__file__.startswith({str(home)!r}); from masa_ros import cli; '
        f'sys.exit(cli.main(["replay", {str(frames)!r}, "--output", {str(tmp_path / "out")!r}]))'
    )
    environment = os.environ | {'PYTHONPATH': '', 'AMENT_PREFIX_PATH': ''}
    subprocess.run([sys.executable, '-c', code], check=True, cwd='/', env=environment)
    assert (tmp_path / 'out/tracks.mcap').stat().st_size > 0
