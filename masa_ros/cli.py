"""The command ``masa_ros``."""

from __future__ import annotations

import argparse
import importlib
import sys

from masa_ros import __version__
from masa_ros.errors import MasaError

# Name, what it does, module with add_arguments(parser, what follows) and run(arguments) -> exit
# code. Modules are imported when they are asked for: the help is instant and needs neither torch
# nor ROS.
_COMMANDS = (
    ('replay', 'track a bag, a video or a folder of frames', 'masa_ros.replay.command'),
    ('evaluate', 'compare tracks with the truth', 'masa_ros.evaluation.command'),
    ('demo', 'show everything on a generated recording', 'masa_ros.demo.command'),
    ('engines', 'build, list, verify and clear compiled engines', 'masa_ros.methods.command'),
    ('weights', 'list, fetch and verify the published weights', 'masa_ros.models.command'),
    (
        'proposals',
        'segment everything in a folder of images, for training',
        'masa_ros.training.proposals_command',
    ),
    ('train', 'train a model on a folder of unlabelled images', 'masa_ros.training.command'),
)
_OF_ROS = {
    *('rclpy', 'rcl_interfaces', 'builtin_interfaces', 'std_msgs', 'sensor_msgs', 'std_srvs'),
    *('diagnostic_msgs', 'geometry_msgs', 'lifecycle_msgs', 'visualization_msgs'),
}
_NODE_USAGE = 'masa_ros node [--ros-args -r image_raw:=TOPIC -p PARAMETER:=VALUE ...]'


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ['node'] and not {'-h', '--help'} & set(arguments):
        # Everything behind it belongs to ROS.
        try:
            from masa_ros.nodes.command import run as run_node
        except ImportError as error:
            return _without_ros('node', error)
        run_node(['masa_ros', *arguments[1:]])
    parser = argparse.ArgumentParser(
        prog='masa_ros', description='Segment and track everything in a camera stream.'
    )
    parser.add_argument('--version', action='version', version=f'masa_ros {__version__}')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name, help_text, module in _COMMANDS:
        command = commands.add_parser(name, help=help_text, description=help_text)
        if name in arguments[:1]:
            loaded = importlib.import_module(module)
            loaded.add_arguments(command, arguments[1:])
            command.set_defaults(run=loaded.run)
    about_node = 'run the ROS node'
    commands.add_parser('node', help=about_node, description=about_node, usage=_NODE_USAGE)
    chosen = parser.parse_args(arguments)
    try:
        return int(chosen.run(chosen))
    except ImportError as error:
        return _without_ros(chosen.command, error)
    except (MasaError, OSError) as error:  # OSError: a full disk, a folder without permission
        print(f'masa_ros {chosen.command}: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _without_ros(command: str, error: ImportError) -> int:
    """Tell, in one line, that ROS is not there; any other missing module is shown as it is."""
    missing = (error.name or '').split('.')[0]
    if missing not in _OF_ROS and not (error.name or '').startswith('masa_ros.msg'):
        raise error
    print(
        f'masa_ros {command}: needs ROS 2 ({error}): source /opt/ros/$ROS_DISTRO/setup.bash and '
        'the workspace that masa_ros was built in',
        file=sys.stderr,
    )
    return 2


if __name__ == '__main__':
    sys.exit(main())
