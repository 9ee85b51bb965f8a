# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Start the tracker: ros2 launch masa_ros tracker.launch.py image:=/camera/image_raw."""

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import Action, LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LoadComposableNodes, Node
from launch_ros.descriptions import ComposableNode
from launch_ros.substitutions import FindPackageShare
from launch_ros.utilities import make_namespace_absolute, prefix_namespace

SWITCH = ['true', 'false']
REMAPPED = {
    **{'image_raw': 'image', 'detections': 'detections', 'click': 'click'},
    **{'depth/image_raw': 'depth', 'depth/points': 'points'},
}
ARGUMENTS = [
    DeclareLaunchArgument(
        'image', default_value='image_raw', description='image topic of the camera'
    ),
    DeclareLaunchArgument(
        'detections',
        default_value='detections',
        description='topic of the boxes that are tracked with given_detections',
    ),
    DeclareLaunchArgument(
        'click',
        default_value='click',
        description='topic of clicks in a viewer that are followed, for example /clicked_point',
    ),
    DeclareLaunchArgument(
        'depth',
        default_value='depth/image_raw',
        description='topic of depth images beside the camera, with space.depth',
    ),
    DeclareLaunchArgument(
        'points',
        default_value='depth/points',
        description='topic of clouds beside the camera, with space.depth: points',
    ),
    DeclareLaunchArgument('namespace', default_value='', description='of the node'),
    DeclareLaunchArgument(
        'params_file',
        default_value=PathJoinSubstitution(
            [FindPackageShare('masa_ros'), 'config', 'tracker.yaml']
        ),
        description='parameters of the node; the arguments of the same names, where they are '
        'given, stand above it',
    ),
    DeclareLaunchArgument('method', default_value='', description='tracking method by name'),
    DeclareLaunchArgument('model', default_value='', description='model by name'),
    DeclareLaunchArgument('device', default_value='', description='auto, cpu, cuda or cuda:N'),
    DeclareLaunchArgument(
        'image_transport',
        default_value='',
        choices=['', 'raw', 'compressed', 'ffmpeg', 'foxglove'],
        description='other than raw: listen to the topic of this name below the image topic',
    ),
    DeclareLaunchArgument(
        'overlay',
        default_value='false',
        choices=SWITCH,
        description='show the overlay in a window (needs rqt_image_view)',
    ),
    DeclareLaunchArgument(
        'autostart',
        default_value='',
        choices=['', *SWITCH],
        description='configure and activate without a lifecycle manager',
    ),
    DeclareLaunchArgument(
        'log_level',
        default_value='info',
        choices=['debug', 'info', 'warn', 'error', 'fatal'],
        description='of the process that is started',
    ),
    DeclareLaunchArgument(
        'use_sim_time',
        default_value='',
        choices=['', *SWITCH],
        description='take the time from /clock',
    ),
    DeclareLaunchArgument(
        'container',
        default_value='',
        description='component_container to load the node into, by name, in the same namespace '
        "unless it begins with '/'; empty: a process of its own",
    ),
]


def viewer(topic: str) -> Node:
    try:
        get_package_prefix('rqt_image_view')
    except PackageNotFoundError:
        raise RuntimeError(
            'overlay:=true needs rqt_image_view: sudo apt install ros-$ROS_DISTRO-rqt-image-view'
        ) from None
    return Node(package='rqt_image_view', executable='rqt_image_view', arguments=[topic])


def tracker(context: LaunchContext) -> list[Action]:
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    def given(*names: str) -> dict[str, str]:
        return {name: value(name) for name in names if value(name)}

    pushed = context.launch_configurations.get('ros_namespace')  # by PushRosNamespace
    namespace = make_namespace_absolute(prefix_namespace(pushed, value('namespace')))
    parameters: dict[str, str | bool] = {**given('method', 'model', 'device', 'image_transport')}
    parameters |= {
        name: text == 'true' for name, text in given('autostart', 'use_sim_time').items()
    }
    description = {
        'package': 'masa_ros',
        'name': 'masa_tracker',
        'namespace': namespace,
        'parameters': [value('params_file'), parameters],
        'remappings': [(name, value(argument)) for name, argument in REMAPPED.items()],
    }
    # First, because it may be missing: launch would leave a node alone that it has just started.
    # By its whole name, because the part of the viewer in C++ is told of no namespace.
    shown = value('overlay') == 'true'
    viewers = [viewer(prefix_namespace(namespace, 'masa_tracker/overlay'))] if shown else []
    if value('container'):
        load = LoadComposableNodes(
            target_container=prefix_namespace(namespace, value('container')),
            composable_node_descriptions=[
                ComposableNode(plugin='masa_ros::TrackerNode', **description)
            ],
        )
        return [*viewers, load]
    node = Node(
        executable='tracker_node',
        output='screen',
        arguments=['--ros-args', '--log-level', value('log_level')],
        **description,
    )
    return [*viewers, node]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=tracker)])
