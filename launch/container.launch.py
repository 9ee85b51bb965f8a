# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Start the tracker as a component: ros2 launch masa_ros container.launch.py image:=TOPIC."""

from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

NAME = 'masa_container'


def generate_launch_description() -> LaunchDescription:
    # First: the arguments are declared there.
    tracker = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(
            PathJoinSubstitution([FindPackageShare('masa_ros'), 'launch', 'tracker.launch.py'])
        ),
        launch_arguments={'container': NAME}.items(),
    )
    container = Node(
        package='masa_ros',
        executable='component_container',
        name=NAME,
        namespace=LaunchConfiguration('namespace'),
        output='screen',
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
    )
    return LaunchDescription([tracker, container])
