# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the README tells a user to type before anything runs."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
STORED = ROOT.parent / 'shared' / 'rosdistro'
# Keys that resolve on Humble, Jazzy and Lyrical; the next test holds them against rosdistro's
# data where a copy is stored.
_KEYS = """
    ament_cmake ament_cmake_pytest ament_cmake_python ament_index_python builtin_interfaces
    composition_interfaces cv_bridge diagnostic_msgs ffmpeg_image_transport_msgs foxglove_msgs
    geometry_msgs launch launch_ros lifecycle_msgs python3-hypothesis python3-numpy
    python3-opencv python3-pil python3-pytest python3-pytest-timeout python3-scipy python3-tqdm
    python3-venv rcl_interfaces rclpy ros2bag ros2launch rosbag2_storage_mcap
    rosidl_default_generators rosidl_default_runtime rqt_image_view sensor_msgs statistics_msgs
    std_msgs std_srvs tf2_ros_py vision_msgs visualization_msgs
"""
KEYS = set(_KEYS.split())
PACKAGE = ET.parse(ROOT / 'package.xml').getroot()
DEPENDS = {tag.text for tag in PACKAGE if tag.tag.endswith('depend')}


def test_all_keys_of_the_package_are_known():
    assert DEPENDS <= KEYS


@pytest.fixture(scope='module')
def rosdep(tmp_path_factory):
    """Real rosdep with the stored copy of rosdistro's data, on the keys above."""
    if not STORED.is_dir():
        pytest.skip('needs a stored copy of rosdistro, shared/rosdistro')
    pytest.importorskip('rosdep2', reason='rosdep is not installed')
    folder = tmp_path_factory.mktemp('rosdep')
    (folder / 'sources').mkdir()
    files = [STORED / 'rosdep' / f'{name}.yaml' for name in ('base', 'python', 'ruby')]
    lines = ''.join(f'yaml {file.as_uri()}\n' for file in files)
    (folder / 'sources' / '20-default.list').write_text(lines)
    environment = os.environ | {
        'ROSDEP_SOURCE_PATH': str(folder / 'sources'),
        'ROS_HOME': str(folder / 'home'),
        'ROSDISTRO_INDEX_URL': (STORED / 'index-v4.yaml').as_uri(),
        'ROS_PYTHON_VERSION': '3',
    }

    def run(*arguments):
        code = 'import sys; from rosdep2.main import rosdep_main; rosdep_main(sys.argv[1:])'
        return subprocess.run(
            [sys.executable, '-c', code, *map(str, arguments)],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.parametrize(
    'distribution, system',
    [('humble', 'jammy'), ('jazzy', 'noble'), ('lyrical', 'resolute')],
)
def test_rosdep_resolves_the_package(rosdep, tmp_path, distribution, system):
    updated = rosdep('update', '--include-eol-distros', '--rosdistro', distribution)
    assert not updated.returncode, updated.stderr
    (tmp_path / 'package.xml').write_bytes((ROOT / 'package.xml').read_bytes())
    options = ('--rosdistro', distribution, '--os', f'ubuntu:{system}')
    simulated = rosdep(
        'install', '--from-paths', tmp_path, '--ignore-src', *options, '--simulate', '-y'
    )
    assert not simulated.returncode, simulated.stdout + simulated.stderr
    assert f'apt-get install -y ros-{distribution}-rclpy' in simulated.stdout
    resolved = rosdep('resolve', *KEYS, *options)
    assert not resolved.returncode, resolved.stderr


def test_every_interface_that_the_node_uses_is_declared():
    used = set()
    for file in (ROOT / 'masa_ros' / 'nodes').glob('*.py'):
        used |= set(
            re.findall(r'\b(\w+_msgs|\w+_interfaces|std_srvs)\.(?:msg|srv)', file.read_text())
        )
    assert len(used) > 8
    assert used <= DEPENDS


def requirements(file):
    lines = (line.split('#')[0].strip() for line in (ROOT / file).read_text().splitlines())
    return {re.split('[=><;\\[]', line)[0].strip() for line in lines if line}


def test_what_a_workspace_installs_leaves_the_libraries_of_the_distribution_alone():
    listed = requirements('requirements-ros.txt')
    assert {'torch', 'torchvision', 'safetensors'} <= listed
    assert not any(re.match('numpy|opencv|scipy|trackeval', name) for name in listed)


def test_the_pins_name_everything_that_setup_py_asks_for():
    text = (ROOT / 'setup.py').read_text()
    asked = {
        re.split('[=><]', node.value)[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant)
        and re.fullmatch(r'[a-z][\w-]+([>=]=[\d.]+)?', str(node.value))
    }
    listed = requirements('requirements.txt') | requirements('requirements-dev.txt')
    known = {'torch', 'numpy', 'opencv-python', 'av', 'trackeval', 'scikit-image', 'tensorboard'}
    assert known <= asked
    assert known <= listed


# What Ubuntu 22.04 and 24.04 have, under the names of the package index.
UBUNTU = [
    {'numpy': '1.21.5', 'scipy': '1.8.0', 'pillow': '9.0.1', 'tqdm': '4.57.0'},
    {'numpy': '1.26.4', 'scipy': '1.11.4', 'pillow': '10.2.0', 'tqdm': '4.66.2'},
]


@pytest.mark.parametrize('libraries', UBUNTU, ids=('jammy', 'noble'))
def test_nothing_that_a_workspace_installs_asks_for_other_libraries(libraries):
    """Otherwise pip would put them over the distribution's, or refuse."""
    waiting, seen = list(requirements('requirements-ros.txt')), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for line in importlib.metadata.requires(name) or ():
            needed = Requirement(line)
            if needed.marker and not needed.marker.evaluate({'extra': ''}):
                continue
            found = canonicalize_name(needed.name)
            assert not found.startswith('opencv'), f'{name}: {line}'
            if found in libraries:
                assert needed.specifier.contains(libraries[found]), f'{name}: {line}'
            else:
                waiting.append(found)
    assert len(seen) > 15
