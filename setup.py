"""Install the parts that need no ROS: models, tracking, replay of recordings, training.

A ROS 2 workspace builds the package with CMakeLists.txt instead, messages and node included.
"""

from pathlib import Path

from setuptools import find_packages, setup

# Where an ament installation has them too, see masa_ros/share.py.
SHARED = {
    folder: [str(file) for file in sorted(Path(folder).iterdir()) if file.is_file()]
    for folder in ('msg', 'launch', 'config')
}

setup(
    name='masa_ros',
    version='0.1.0',
    description='Segment and track everything in a camera stream, for ROS 2',
    license='Apache-2.0',
    packages=find_packages(include=['masa_ros', 'masa_ros.*']),
    package_data={'masa_ros': ['py.typed', 'weights/*', 'engines/calibration/*']},
    data_files=[(f'share/masa_ros/{folder}', files) for folder, files in SHARED.items()],
    python_requires='>=3.10',
    install_requires=[
        'av',
        'numpy>=1.26',
        'opencv-python-headless',
        'pillow',
        'pycocotools',
        'rosbags>=0.10',
        'rosbags-image',
        'mcap',
        'safetensors',
        'scipy',
        'segment-anything',
        'torch>=2.4',
        'torchvision',
        'tqdm',
        'trackeval',
    ],
    extras_require={'demo': ['scikit-image', 'scikit-learn']},
    entry_points={
        'console_scripts': ['masa_ros = masa_ros.cli:main'],
        'rclpy_components': ['masa_ros::TrackerNode = masa_ros.nodes.tracker_node:TrackerNode'],
    },
)
