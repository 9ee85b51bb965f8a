# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A workspace: ``colcon build``, then ``colcon test`` with some of the tests."""

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PREFIX = os.environ.get('AMENT_PREFIX_PATH') or sys.prefix
COLCON = shutil.which(
    'colcon', path=f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
)


def test_a_workspace_is_built_and_tested(tmp_path):
    if COLCON is None:
        pytest.skip('colcon is not installed')
    if not (Path(PREFIX) / 'share' / 'ament_cmake_pytest').is_dir():
        pytest.skip('ament_cmake_pytest is not installed')
    source = tmp_path / 'src' / 'masa_ros'
    ignored = shutil.ignore_patterns('.*', 'out', 'build', 'docs', 'bench', '__pycache__')
    shutil.copytree(ROOT, source, ignore=ignored)
    environment = os.environ | {'AMENT_PREFIX_PATH': PREFIX, 'CMAKE_PREFIX_PATH': PREFIX}
    environment['PATH'] = f'{Path(sys.executable).parent}{os.pathsep}{environment["PATH"]}'

    def colcon(*arguments):
        command = [COLCON, *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert not done.returncode, done.stdout + done.stderr
        return done.stdout

    colcon('build', '--packages-select', 'masa_ros')
    program = tmp_path / 'install' / 'masa_ros' / 'lib' / 'masa_ros' / 'tracker_node'
    assert program.read_text().startswith(f'#!{Path(sys.executable).parent}/python')
    colcon('test', '--packages-select', 'masa_ros', '--ctest-args', '-R', '_(masks|container)$')
    results = sorted((tmp_path / 'build' / 'masa_ros').rglob('test_*.xunit.xml'))
    assert [file.name for file in results] == ['test_container.xunit.xml', 'test_masks.xunit.xml']
    for file in results:
        (suite,) = ET.parse(file).getroot()
        assert int(suite.get('tests')) >= 5
        assert suite.get('failures') == suite.get('errors') == '0', file.read_text()
        assert 'skipped' not in suite.attrib or suite.get('skipped') == '0'
