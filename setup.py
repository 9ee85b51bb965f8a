# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Install the parts that need no ROS: models, tracking, replay of recordings, training.

A ROS 2 workspace builds the package with CMakeLists.txt instead, messages and node included.
"""

import xml.etree.ElementTree as ET
from pathlib import Path

from setuptools import find_packages, setup

# Where an ament installation has them too, see masa_ros/share.py.
SHARED = {
    f'share/masa_ros/{folder}': [
        str(file) for file in sorted(Path(folder).iterdir()) if file.is_file()
    ]
    for folder in ('msg', 'srv', 'launch', 'config')
}
# What each extra is for is in README.md. One flavour of OpenCV, the one that trackeval asks for:
# two beside each other overwrite each other's files.
EXTRAS = {
    'replay': ['av>=12', 'mcap', 'rosbags>=0.10', 'rosbags-image'],
    'evaluation': ['pillow', 'trackeval'],
    'fleet': ['pyarrow', 'ray>=2.60'],
    'sam': ['segment-anything'],
    'studio': ['nicegui>=3.0'],
    'words': ['timm', 'transformers>=5.20'],
    'training': ['ncnn', 'tensorboard'],
    'openvino': ['openvino>=2026.0'],
    'demo': ['scikit-image', 'scikit-learn'],
}

setup(
    name='masa_ros',
    version=ET.parse('package.xml').findtext('version'),  # the one place where it stands
    description='Segment and track everything in a camera stream, for ROS 2',
    license='Apache-2.0',
    packages=find_packages(include=['masa_ros', 'masa_ros.*']),
    package_data={'masa_ros': ['py.typed', 'weights/*', 'engines/calibration/*']},
    data_files=list(SHARED.items()),
    python_requires='>=3.10',
    install_requires=[
        'numpy>=1.21',
        'opencv-python>=4.5',
        'pycocotools',
        'safetensors',
        'scipy>=1.8',
        'torch>=2.4',
        'torchvision',
        'tqdm',
    ],
    extras_require=EXTRAS,
    entry_points={
        'console_scripts': ['masa_ros = masa_ros.cli:main'],
        'rclpy_components': ['masa_ros::TrackerNode = masa_ros.nodes.tracker_node:TrackerNode'],
    },
)
