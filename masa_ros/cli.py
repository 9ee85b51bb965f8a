# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The command ``masa_ros``."""

from __future__ import annotations

import argparse
import difflib
import importlib
import re
import sys
from collections.abc import Collection
from typing import Any, NoReturn

from masa_ros import __version__
from masa_ros.errors import MasaError

# Name, what it does, module with add_arguments(parser, what follows), run(arguments) -> exit code,
# and perhaps COMMON and ABSENT, see _Parser. Modules are imported when they are asked for: the
# help is instant and needs neither torch nor ROS.
_COMMANDS = (
    ('replay', 'track a bag, a video or a folder of frames', 'masa_ros.replay.command'),
    ('fleet', 'track many recordings on a Ray cluster', 'masa_ros.fleet.command'),
    ('studio', 'look at tracks, and point at objects, on a web page', 'masa_ros.studio.command'),
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
    (
        'train-propagator',
        'train the network that carries masks on',
        'masa_ros.training.propagation_command',
    ),
)
_OF_ROS = {
    *('rclpy', 'rcl_interfaces', 'builtin_interfaces', 'std_msgs', 'sensor_msgs', 'std_srvs'),
    *('diagnostic_msgs', 'geometry_msgs', 'lifecycle_msgs', 'visualization_msgs'),
}
# Which extra of setup.py brings a library that only some commands need.
_EXTRAS = {
    **dict.fromkeys(('av', 'mcap', 'rosbags'), 'replay'),
    **dict.fromkeys(('PIL', 'trackeval'), 'evaluation'),
    **dict.fromkeys(('skimage', 'sklearn'), 'demo'),
    **dict.fromkeys(('ray', 'pyarrow'), 'fleet'),
    **dict.fromkeys(('fastapi', 'nicegui', 'uvicorn'), 'studio'),
    'ncnn': 'training',
    'segment_anything': 'sam',
}
_NO_OPTION = re.compile(r'-\.?\d|-$')  # negative numbers; - alone
_NODE_USAGE = 'masa_ros node [--ros-args -r image_raw:=TOPIC -p PARAMETER:=VALUE ...]'


class _Parser(argparse.ArgumentParser):
    """Shows what most people need, and answers a mistake with the usage of what was asked for.

    Attributes
    ----------
    common: arguments that the help shows, by where they are stored; none: all.
    absent: why an option that the documents name may not be there.

    """

    common: Collection[str] = ()
    absent = ''
    _given: list[str]

    def show_only(self, common: Collection[str]) -> None:
        """Keep ``common`` in the help and leave the others to ``--help-all``."""
        self.common = common
        text = 'show the other options too and exit'
        hide = argparse.SUPPRESS
        self.add_argument(
            '--help-all', action=_HelpAll, nargs=0, dest='help', default=hide, help=text
        )

    def print_help(self, file: Any = None) -> None:
        if self.common:
            for action in self._actions:
                if action.dest not in (*self.common, 'help'):
                    action.help = argparse.SUPPRESS
        super().print_help(file)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        # Not in parse_args, which is not called for the parser of a command: the parser above it
        # would tell what is wrong, with its own usage.
        self._given = list(args)
        if self._subparsers and self._unknown():
            self.error('')  # before a command behind it finds something
        found, more = super().parse_known_args(args, namespace)
        if more:
            self.error(f"'{more[0]}' is one argument too many")
        return found, more

    def error(self, message: str) -> NoReturn:
        unknown = self._unknown()
        if unknown and not message.startswith('argument '):  # which names another one
            known = [name for name in self._option_string_actions if name.startswith('--')]
            close = difflib.get_close_matches(unknown, known, 1, 0.75)
            absent = f' ({self.absent})' if self.absent else ''
            reason = f'; did you mean {close[0]}?' if close else absent
            message = f'there is no option {unknown}{reason}'
        self.print_usage(sys.stderr)
        rest = ', or --help-all for all options' if self.common else ''
        self.exit(2, f'{self.prog}: {message}\nsee {self.prog} --help{rest}\n')

    def _unknown(self) -> str:
        """Return the first option that was given and does not exist, '' where all do."""
        for argument in self._given:
            name = argument.partition('=')[0]
            option = name.startswith('-') and ' ' not in name and not _NO_OPTION.match(name)
            if argument == '--' or (self._subparsers and not option):
                break  # what follows is no option, or one of a command's
            if option and not any(each.startswith(name) for each in self._option_string_actions):
                return name
        return ''


class _HelpAll(argparse.Action):
    """``--help-all``."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        assert isinstance(parser, _Parser)
        parser.common = ()
        parser.print_help()
        parser.exit()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        return _run(arguments)
    except ImportError as error:
        return _without(arguments[0], error)
    except (MasaError, OSError) as error:  # OSError: a full disk, a folder without permission
        print(f'masa_ros {arguments[0]}: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ['node'] and not {'-h', '--help'} & set(arguments):
        # Everything behind it belongs to ROS.
        from masa_ros.nodes.command import run as run_node

        run_node(['masa_ros', *arguments[1:]])
    parser = _Parser(
        prog='masa_ros', description='Segment and track everything in a camera stream.'
    )
    parser.add_argument('--version', action='version', version=f'masa_ros {__version__}')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name, help_text, module in _COMMANDS:
        command = commands.add_parser(name, help=help_text, description=help_text)
        if name in arguments[:1]:
            loaded = importlib.import_module(module)
            if common := getattr(loaded, 'COMMON', ()):
                command.show_only(common)
            command.absent = getattr(loaded, 'ABSENT', '')
            loaded.add_arguments(command, arguments[1:])
            command.set_defaults(run=loaded.run)
    about_node = 'run the ROS node'
    commands.add_parser('node', help=about_node, description=about_node, usage=_NODE_USAGE)
    chosen = parser.parse_args(arguments)
    return int(chosen.run(chosen))


def _without(command: str, error: ImportError) -> int:
    """Tell, in one line, what is not installed; other modules are missing by a mistake of ours."""
    missing = (error.name or '').split('.')[0]
    if missing in _OF_ROS or (error.name or '').startswith('masa_ros.msg'):
        text = (
            f'needs ROS 2 ({error}): source /opt/ros/$ROS_DISTRO/setup.bash and '
            'the workspace that masa_ros was built in'
        )
    elif missing in _EXTRAS:
        text = (
            f"needs the package '{missing}': pip install 'masa_ros[{_EXTRAS[missing]}]', or in a "
            'ROS 2 workspace as README.md says'
        )
    else:
        raise error
    print(f'masa_ros {command}: {text}', file=sys.stderr)
    return 2


if __name__ == '__main__':
    sys.exit(main())
