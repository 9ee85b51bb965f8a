# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``masa_ros studio``: a page to look at tracks, point at objects, and steer by."""

from __future__ import annotations

import argparse
import secrets
import socket
import warnings
import webbrowser
from pathlib import Path

from masa_ros import methods, options
from masa_ros.errors import ConfigError, SourceError
from masa_ros.recordings.prompts import read_prompts
from masa_ros.recordings.sources import open_source
from masa_ros.streams.stream import StreamConfig
from masa_ros.studio.lane import Lane
from masa_ros.studio.recorded import Settings

COMMON = (
    *('source', 'ros', 'node', 'camera', 'host', 'port', 'open', 'prompts', 'topic'),
    *('method', 'model', 'device'),
)
ABSENT = methods.ABSENT


def add_arguments(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    """Declare the command's arguments, with those of the method that is chosen."""
    parser.usage = '%(prog)s [SOURCE | --ros] [options]'
    parser.add_argument(
        'source',
        type=Path,
        nargs='?',
        metavar='SOURCE',
        help='rosbag2 folder, .mcap or .db3 file, video, or folder of images; without one the '
        'page lets you open one',
    )
    parser.add_argument('--ros', action='store_true', help='a running node, through its topics')
    parser.add_argument(
        '--node', default='/masa_tracker', metavar='NAME', help='with --ros: which (%(default)s)'
    )
    parser.add_argument(
        '--camera', default='', metavar='NAME', help='with --ros: of a node with several'
    )
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address to listen on (%(default)s: this machine only); of another one browsers '
        'need the token that is printed',
    )
    parser.add_argument(
        '--port', type=int, default=8765, help='to listen on, 0 for any (%(default)s)'
    )
    parser.add_argument('--open', action='store_true', help='open it in the browser')
    parser.add_argument(
        '--largest',
        type=int,
        default=2048,
        metavar='MIB',
        help='of a file that is brought (%(default)s)',
    )
    parser.add_argument(
        '--prompts', type=Path, metavar='FILE', help='objects to track, pointed at or named: json'
    )
    parser.add_argument('--topic', default='', help='image topic of a bag with several')
    parser.add_argument(
        '--fps', type=float, default=0.0, help='rate of a folder of images (its meta.json, or 10)'
    )
    methods.add_arguments(parser, arguments, methods.REPEATABLE)
    options.add_arguments(parser.add_argument_group('stream'), StreamConfig)


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until somebody ends it."""
    # What the page is made with takes a second to import.
    import uvicorn

    from masa_ros.studio.guard import Guard, is_loopback
    from masa_ros.studio.page import serve
    from masa_ros.studio.studio import Studio

    if arguments.ros and arguments.source:
        raise ConfigError('a SOURCE and --ros: one of both')
    if arguments.prompts and not arguments.source:
        raise ConfigError('--prompts needs a SOURCE')
    listening = _listen(arguments.host, arguments.port)
    settings = options.from_arguments(Settings, arguments)
    live: Lane | None = None
    if arguments.ros:
        from masa_ros.studio.live import open_live

        live = open_live(arguments.node, arguments.camera)
    studio = Studio(settings, live, arguments.node if arguments.ros else '')
    largest = max(arguments.largest, 1) << 20
    try:
        if arguments.source:
            prompts = read_prompts(arguments.prompts) if arguments.prompts else []
            source = open_source(arguments.source, arguments.topic, arguments.fps)
            studio.open(source, arguments.source.name)
            if studio.player is not None:
                studio.player.lanes[0].recorded.follow(prompts)
        token = '' if is_loopback(arguments.host) else secrets.token_urlsafe(24)
        name = socket.gethostname() if arguments.host in ('0.0.0.0', '::') else arguments.host
        name = f'[{name}]' if ':' in name else name
        address = f'http://{name}:{listening.getsockname()[1]}/'
        address += f'?token={token}' if token else ''
        print(f'masa_ros studio: {address}', flush=True)
        if arguments.open:
            webbrowser.open(address)
        guarded = Guard(serve(studio, largest), token, largest + (1 << 20))
        config = uvicorn.Config(guarded, log_level='warning', timeout_graceful_shutdown=1)
        with warnings.catch_warnings():
            # NiceGUI looks at every object there is, and torch has some that warn of themselves.
            warnings.filterwarnings('ignore', category=FutureWarning, module='nicegui')
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        listening.close()
        studio.close()
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; raises SourceError where it cannot."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(128)  # from now on browsers wait until they are served
    except (OSError, OverflowError) as error:
        raise SourceError(f'cannot listen on {host}, port {port}: {error}') from error
    return made
