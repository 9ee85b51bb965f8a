# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Play a bag to the tracker: ros2 launch masa_ros replay.launch.py bag:=PATH image:=TOPIC."""

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare


def generate_launch_description() -> LaunchDescription:
    arguments = [
        DeclareLaunchArgument('bag', description='rosbag2 folder or file to play'),
        DeclareLaunchArgument(
            'image', default_value='image_raw', description='image topic in the bag'
        ),
        DeclareLaunchArgument('rate', default_value='1.0', description='of the playback'),
        DeclareLaunchArgument(
            'delay', default_value='10.0', description='seconds for the model to load before'
        ),
    ]
    tracker = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(
            PathJoinSubstitution([FindPackageShare('masa_ros'), 'launch', 'tracker.launch.py'])
        ),
        launch_arguments={
            'image': LaunchConfiguration('image'),
            'use_sim_time': 'true',
        }.items(),
    )
    player = ExecuteProcess(
        cmd=[
            'ros2', 'bag', 'play', LaunchConfiguration('bag'), '--clock',
            '--rate', LaunchConfiguration('rate'), '--delay', LaunchConfiguration('delay'),
        ],
        output='screen',
    )  # fmt: skip
    end = RegisterEventHandler(
        OnProcessExit(target_action=player, on_exit=[EmitEvent(event=Shutdown())])
    )
    return LaunchDescription([*arguments, tracker, player, end])
