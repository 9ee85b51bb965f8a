"""Start the tracker: ros2 launch masa_ros tracker.launch.py image:=/camera/image_raw."""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

SWITCH = ['true', 'false']
ARGUMENTS = [
    DeclareLaunchArgument(
        'image', default_value='image_raw', description='image topic of the camera'
    ),
    DeclareLaunchArgument('namespace', default_value='', description='of the node'),
    DeclareLaunchArgument(
        'params_file',
        default_value=PathJoinSubstitution(
            [FindPackageShare('masa_ros'), 'config', 'tracker.yaml']
        ),
        description='parameters of the node; the next four stand above it where they are given',
    ),
    DeclareLaunchArgument('method', default_value='', description='tracking method by name'),
    DeclareLaunchArgument('model', default_value='', description='model by name'),
    DeclareLaunchArgument('device', default_value='', description='auto, cpu, cuda or cuda:N'),
    DeclareLaunchArgument(
        'image_transport',
        default_value='',
        choices=['', 'raw', 'compressed'],
        description="compressed: listen to the image topic's '/compressed'",
    ),
    DeclareLaunchArgument(
        'overlay',
        default_value='false',
        choices=SWITCH,
        description='show the overlay in a window (needs rqt_image_view)',
    ),
    DeclareLaunchArgument(
        'autostart',
        default_value='true',
        choices=SWITCH,
        description='configure and activate without a lifecycle manager',
    ),
    DeclareLaunchArgument(
        'log_level',
        default_value='info',
        choices=['debug', 'info', 'warn', 'error', 'fatal'],
        description='of the node',
    ),
    DeclareLaunchArgument(
        'use_sim_time',
        default_value='false',
        choices=SWITCH,
        description='take the time from /clock',
    ),
]


def tracker(context: LaunchContext) -> list[Node]:
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    parameters: dict[str, str | bool] = {
        name: value(name)
        for name in ('method', 'model', 'device', 'image_transport')
        if value(name)
    }
    parameters |= {name: value(name) == 'true' for name in ('autostart', 'use_sim_time')}
    node = Node(
        package='masa_ros',
        executable='tracker_node',
        name='masa_tracker',
        namespace=value('namespace'),
        output='screen',
        parameters=[value('params_file'), parameters],
        remappings=[('image_raw', value('image'))],
        arguments=['--ros-args', '--log-level', value('log_level')],
    )
    return [node]


def generate_launch_description() -> LaunchDescription:
    viewer = Node(
        package='rqt_image_view',
        executable='rqt_image_view',
        namespace=LaunchConfiguration('namespace'),
        arguments=['masa_tracker/overlay'],
        condition=IfCondition(LaunchConfiguration('overlay')),
    )
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=tracker), viewer])
