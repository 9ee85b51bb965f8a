# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The launch files: what they declare everywhere, what they do where ROS launch is installed."""

import ast
import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import scene
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import GetParameters
from ros_harness import Peer

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / 'launch').glob('*.launch.py'))


def declared(file):
    """Arguments of a launch file by name, with the text that explains them."""
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    found = {}
    for call in calls:
        if isinstance(call.func, ast.Name) and call.func.id == 'DeclareLaunchArgument':
            texts = [each.value for each in call.keywords if each.arg == 'description']
            found[ast.literal_eval(call.args[0])] = ''.join(map(ast.literal_eval, texts))
    return found


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.name)
def test_arguments_are_explained_and_documented(file):
    documents = ' '.join(
        f.read_text() for f in [ROOT / 'README.md', *(ROOT / 'docs').glob('*.md')]
    )
    lists = ' '.join(re.findall(r'arguments:\s([^.]*)[.]', documents))
    words = set(re.findall(r'\w+', lists)) | set(re.findall(r'(\w+):=', documents))
    for name, text in declared(file).items():
        assert text, name
        assert name in words, f'{name} of {file.name} is in no document'


def test_what_is_included_or_started_exists():
    for file in FILES:
        for name in re.findall(r"'(\w+\.launch\.py)'", file.read_text()):
            assert (ROOT / 'launch' / name).is_file()
        for name in re.findall(r"executable='(\w+)'", file.read_text()):
            assert name == 'rqt_image_view' or (ROOT / 'scripts' / name).is_file()


@pytest.mark.ros
@pytest.mark.parametrize('name', ['tracker_node', 'component_container'])
def test_an_interrupt_while_torch_is_loaded_leaves_no_traceback(name, tmp_path):
    log = tmp_path / 'log'
    with log.open('w') as file:
        process = subprocess.Popen(
            [sys.executable, ROOT / 'scripts' / name], stderr=file, stdout=file, cwd='/'
        )
    # The node's package comes before torch, and by then the program minds signals.
    library = 'libtorch' if name == 'tracker_node' else '_rclpy'
    maps = Path(f'/proc/{process.pid}/maps')
    while process.poll() is None and library not in maps.read_text():
        pass
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0, log.read_text()
    assert 'Traceback' not in log.read_text()


# With ROS launch

RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

path, *arguments = sys.argv[1:]
source = PythonLaunchDescriptionSource(path)
arguments = [tuple(each.split(':=', 1)) for each in arguments]
service = LaunchService()
service.include_launch_description(
    LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)])
)
sys.exit(service.run())
"""


class Launched:
    """A launch file in a process of its own, in a session of its own as in a terminal."""

    def __init__(self, log, name, *arguments):
        from ament_index_python.packages import get_package_share_directory

        file = Path(get_package_share_directory('masa_ros'), 'launch', f'{name}.launch.py')
        self._log = log
        with log.open('w') as output:
            self.process = subprocess.Popen(
                [sys.executable, '-c', RUN, file, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd='/',
                env=os.environ | {'ROS_LOG_DIR': str(log.parent / 'ros')},
                start_new_session=True,
            )

    @property
    def log(self):
        return self._log.read_text()

    def interrupt(self):
        """Ctrl-C: everything in the session gets it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(60)

    def kill(self):
        """Leave nothing behind, whatever went wrong."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)


@pytest.fixture
def start(tmp_path):
    """Start launch files; they end with the test, by Ctrl-C and cleanly."""
    pytest.importorskip('launch_ros', reason='ROS launch is not on the package index')
    running = []

    def begin(name, *arguments):
        running.append(Launched(tmp_path / f'{len(running)}.log', name, *arguments))
        return running[-1]

    yield begin
    try:
        for launched in running:
            assert launched.interrupt() == 0, launched.log
            assert 'Traceback' not in launched.log, launched.log
            assert 'escalating' not in launched.log, launched.log
    finally:
        for launched in running:
            launched.kill()


@pytest.fixture
def parameters(tmp_path, seeded_weights):
    """A file of parameters under which the seeded weights find much, and quickly."""
    path = tmp_path / 'parameters.yaml'
    path.write_text(f"""
/**:
  ros__parameters:
    autostart: false
    weights: {seeded_weights}
    device: cpu
    input_size: 192
    score_threshold: 0.0
    init_score_thr: 0.0
    obj_score_thr: 0.0
    publish_tentative: true
/left/masa_tracker:
  ros__parameters:
    confirm_frames: 3
""")
    return f'params_file:={path}'


def ask(peer, kind, name, **fields):
    client = peer.node.create_client(kind, name)
    assert peer.until(client.service_is_ready), f'no service {name}'
    future = client.call_async(kind.Request(**fields))
    assert peer.until(future.done), f'no answer from {name}'
    return future.result()


def tracks(peer):
    """Tracks of an image that is published as soon as somebody listens."""
    assert peer.until(peer.images.get_subscription_count), 'nobody wants images'
    message = peer.image(scene())
    peer.images.publish(message)
    assert peer.until(lambda: peer.tracks), 'no tracks come'
    assert peer.tracks[-1].header == message.header
    return peer.tracks[-1].instances


@pytest.mark.ros
def test_the_tracker_takes_its_parameters_from_a_file_and_waits_where_that_says_so(
    start, parameters
):
    start('tracker', 'namespace:=left', parameters)
    with contextlib.closing(Peer('left')) as peer:
        found = ask(
            *(peer, GetParameters, '/left/masa_tracker/get_parameters'),
            names=['autostart', 'confirm_frames'],
        )
        assert [found.values[0].bool_value, found.values[1].integer_value] == [False, 3]
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            wanted = Transition(id=transition)
            changed = ask(peer, ChangeState, '/left/masa_tracker/change_state', transition=wanted)
            assert changed.success
        assert tracks(peer)


@pytest.mark.ros
def test_arguments_stand_above_the_file(start, parameters):
    start(
        *('tracker', 'namespace:=left', 'image:=/right/image_raw', parameters),
        *('autostart:=true', 'model:=masa_nano', 'log_level:=warn'),
    )
    with contextlib.closing(Peer('left')) as peer:
        peer.images = peer.node.create_publisher(type(peer.image(scene())), '/right/image_raw', 10)
        assert tracks(peer)


@pytest.mark.ros
def test_a_container_tracks_and_takes_another_tracker(start, parameters):
    start('container', 'namespace:=left', parameters, 'autostart:=true')
    with contextlib.closing(Peer('left')) as left:
        assert tracks(left)
    second = start(
        *('tracker', 'namespace:=right', 'container:=/left/masa_container'),
        *(parameters, 'autostart:=true'),
    )
    with contextlib.closing(Peer('right')) as right:
        assert tracks(right)
        assert right.until(lambda: "Loaded node '/right/masa_tracker'" in second.log)
        assert 'process started' not in second.log


@pytest.mark.ros
def test_a_viewer_that_is_missing_is_named_before_anything_is_started(start, tmp_path):
    packages = pytest.importorskip('ament_index_python.packages')
    with contextlib.suppress(packages.PackageNotFoundError):
        packages.get_package_prefix('rqt_image_view')
        pytest.skip('rqt_image_view is installed')
    start  # noqa: B018  # ROS launch is there
    launched = Launched(tmp_path / 'viewer.log', 'tracker', 'overlay:=true')
    try:
        assert launched.process.wait(60) == 1
        assert 'overlay:=true needs rqt_image_view: sudo apt install' in launched.log
        assert 'process started' not in launched.log
    finally:
        launched.kill()


@pytest.mark.ros
@pytest.mark.parametrize('name', [file.name for file in FILES])
def test_show_args_explains_every_argument(name, start):
    from launch import LaunchContext
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    source = PythonLaunchDescriptionSource(str(ROOT / 'launch' / name))
    arguments = source.get_launch_description(LaunchContext()).get_launch_arguments()
    assert {each.name for each in arguments} >= declared(ROOT / 'launch' / name).keys()
    for argument in arguments:
        assert argument.description, argument.name
