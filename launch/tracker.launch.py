"""Start the tracker: ros2 launch masa_ros tracker.launch.py image:=/camera/image_raw."""

from launch.actions import DeclareLaunchArgument
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription


def generate_launch_description() -> LaunchDescription:
    arguments = [
        DeclareLaunchArgument(
            'image', default_value='image_raw', description='image topic of the camera'
        ),
        DeclareLaunchArgument('namespace', default_value='', description='of the node'),
        DeclareLaunchArgument(
            'params_file',
            default_value=PathJoinSubstitution(
                [FindPackageShare('masa_ros'), 'config', 'tracker.yaml']
            ),
            description='parameters; the arguments here come on top of them',
        ),
        DeclareLaunchArgument('model', default_value='masa_nano', description='model by name'),
        DeclareLaunchArgument(
            'device', default_value='auto', description='auto, cpu, cuda or cuda:N'
        ),
        DeclareLaunchArgument(
            'image_transport',
            default_value='raw',
            choices=['raw', 'compressed'],
            description="compressed: listen to the image topic's '/compressed'",
        ),
        DeclareLaunchArgument(
            'overlay',
            default_value='false',
            choices=['true', 'false'],
            description='show the overlay in a window (needs rqt_image_view)',
        ),
        DeclareLaunchArgument(
            'autostart',
            default_value='true',
            choices=['true', 'false'],
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
            choices=['true', 'false'],
            description='take the time from /clock',
        ),
    ]
    tracker = Node(
        package='masa_ros',
        executable='tracker_node',
        name='masa_tracker',
        namespace=LaunchConfiguration('namespace'),
        output='screen',
        parameters=[
            LaunchConfiguration('params_file'),
            {
                'model': LaunchConfiguration('model'),
                'device': LaunchConfiguration('device'),
                'image_transport': LaunchConfiguration('image_transport'),
                'autostart': ParameterValue(LaunchConfiguration('autostart'), value_type=bool),
                'use_sim_time': ParameterValue(
                    LaunchConfiguration('use_sim_time'), value_type=bool
                ),
            },
        ],
        remappings=[('image_raw', LaunchConfiguration('image'))],
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
    )
    viewer = Node(
        package='rqt_image_view',
        executable='rqt_image_view',
        namespace=LaunchConfiguration('namespace'),
        arguments=['masa_tracker/overlay'],
        condition=IfCondition(LaunchConfiguration('overlay')),
    )
    return LaunchDescription([*arguments, tracker, viewer])
