"""Start the tracker as a component: ros2 launch masa_ros container.launch.py image:=TOPIC."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import ComposableNodeContainer
from launch_ros.descriptions import ComposableNode


def generate_launch_description() -> LaunchDescription:
    tracker = ComposableNode(
        package='masa_ros',
        plugin='masa_ros::TrackerNode',
        name='masa_tracker',
        namespace=LaunchConfiguration('namespace'),
        remappings=[('image_raw', LaunchConfiguration('image'))],
    )
    container = ComposableNodeContainer(
        package='masa_ros',
        executable='component_container',
        name='masa_container',
        namespace=LaunchConfiguration('namespace'),
        composable_node_descriptions=[tracker],
        output='screen',
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument('image', default_value='image_raw', description='image topic'),
            DeclareLaunchArgument('namespace', default_value='', description='of the nodes'),
            container,
        ]
    )
