# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Messages and header for programs in C++: built alone, found by CMake as a planner finds them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from masa_ros.types import Mask

ROOT = Path(__file__).parents[1]
PREFIX = os.environ.get('AMENT_PREFIX_PATH') or sys.prefix
CMAKE = """
cmake_minimum_required(VERSION 3.16)
project(planner CXX)
set(CMAKE_CXX_STANDARD 17)
add_compile_options(-Wall -Wextra -Werror)
find_package(masa_ros REQUIRED)
add_executable(planner planner.cpp)
target_link_libraries(planner masa_ros::mask masa_ros::masa_ros__rosidl_typesupport_cpp)
"""
# Reads window and run lengths, answers the image of 8 x 6 pixels and the window. cv::Mat of the
# documented code is a stand-in with the members that it uses.
PROGRAM = """
#include <cstdio>
#include <iostream>
#include <memory>
namespace cv
{
struct Scalar { explicit Scalar(int) {} };
struct Mat
{
  Mat(int r, int c, int, Scalar) : rows(r), cols(c), step(c), memory(new uint8_t[r * c]()) {}
  int rows, cols;
  size_t step;
  std::unique_ptr<uint8_t[]> memory;
  uint8_t * data = memory.get();
};
}
#define CV_8UC1 0
%s
int main()
{
  masa_ros::msg::TrackedInstanceArray tracks;
  tracks.image_width = 8;
  tracks.image_height = 6;
  tracks.instances.resize(1);
  auto & i = tracks.instances[0];
  std::cin >> i.mask_x >> i.mask_y >> i.mask_width >> i.mask_height;
  i.mask_encoding = i.MASK_COCO_COUNTS;
  for (uint32_t run; std::cin >> run; ) {
    i.mask_counts.push_back(run);
  }
  try {
    on_tracks(tracks);
    for (auto p : masa_ros::window_pixels(i)) {
      std::printf("%%d", p != 0);
    }
  } catch (const std::invalid_argument & error) {
    std::printf("%%s", error.what());
  }
}
"""


@pytest.fixture(scope='module')
def prefix(tmp_path_factory):
    """Messages and header, built without the perception stack; gives where they are installed."""
    if not all(map(shutil.which, ('cmake', 'g++'))):
        pytest.skip('no cmake or g++ here')
    folder = tmp_path_factory.mktemp('messages')
    for name in ('msg', 'srv', 'include'):
        shutil.copytree(ROOT / name, folder / name)
    for name in ('CMakeLists.txt', 'package.xml'):
        shutil.copy(ROOT / name, folder)
    options = ['-DMASA_ROS_MESSAGES_ONLY=ON', '-DBUILD_TESTING=OFF']
    build(folder, PREFIX, *options, f'-DCMAKE_INSTALL_PREFIX={folder / "install"}')
    run(['cmake', '--install', folder / 'build'])
    return folder / 'install'


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout


def build(source, prefixes, *options):
    environment = os.environ | {'AMENT_PREFIX_PATH': prefixes}
    environment['CMAKE_PREFIX_PATH'] = prefixes.replace(os.pathsep, ';')
    environment['PATH'] = f'{Path(sys.executable).parent}{os.pathsep}{environment["PATH"]}'
    options = (f'-DPython3_EXECUTABLE={sys.executable}', *options)
    run(['cmake', '-S', source, '-B', source / 'build', *options], env=environment)
    run(['cmake', '--build', source / 'build', '--parallel', '2'], env=environment)


def test_the_messages_can_be_built_alone(prefix):
    assert (prefix / 'include/masa_ros/masa_ros/mask.hpp').is_file()
    (package,) = prefix.rglob('site-packages/masa_ros')
    folders = {path.name for path in package.iterdir() if path.is_dir()}
    assert folders - {'__pycache__'} == {'msg', 'srv'}


@pytest.fixture(scope='module')
def planner(prefix, tmp_path_factory):
    """The documented code as a program of another package; gives what it prints."""
    text = (ROOT / 'docs' / 'masks.md').read_text()
    (documented,) = re.findall('```cpp\n(.*?)```', text, re.DOTALL)
    shown = '  for (int p = 0; p < mask.rows * mask.cols; ++p) {\n'
    shown += '    std::printf("%d", mask.data[p] != 0);\n  }\n  std::puts("");\n}\n'
    documented = documented.rstrip().removesuffix('}') + shown
    folder = tmp_path_factory.mktemp('planner')
    (folder / 'CMakeLists.txt').write_text(CMAKE)
    (folder / 'planner.cpp').write_text(PROGRAM % documented)
    build(folder, f'{prefix}{os.pathsep}{PREFIX}')
    libraries = [f'{prefix}/lib', f'{PREFIX}/lib', os.environ.get('LD_LIBRARY_PATH', '')]
    environment = os.environ | {'LD_LIBRARY_PATH': os.pathsep.join(libraries)}

    def answer(numbers):
        given = ' '.join(map(str, numbers))
        return run([folder / 'build' / 'planner'], input=given, env=environment)

    return answer


@pytest.mark.parametrize('seed', range(3))
def test_masks_have_the_pixels_that_python_sees(planner, seed):
    rng = np.random.default_rng(seed)
    mask = Mask(2, 1, rng.random((4, 5)) < (0.2, 0.5, 0.9)[seed])
    image, window = planner([2, 1, 5, 4, *mask.counts]).split('\n')
    assert image == ''.join(map(str, mask.full(6, 8).astype(int).ravel()))
    assert window == ''.join(map(str, mask.pixels.astype(int).ravel()))


def test_a_mask_that_reaches_beyond_the_image_is_drawn_as_far_as_it_goes(planner):
    image, window = planner([6, 4, 4, 4, 0, 16]).split('\n')
    assert image == '0' * 32 + '00000011' * 2
    assert window == '1' * 16


@pytest.mark.parametrize('counts, words', [([2, 3], 'shorter'), ([2, 2**32 - 1], 'longer')])
def test_run_lengths_that_do_not_fit_are_refused(planner, counts, words):
    assert words in planner([0, 0, 4, 4, *counts])
