"""The options of the association on a command line."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from masa_ros.tracking import ASSOCIATIONS, AnyConfig, ReleasedConfig, TrackerConfig, make_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare one option for every parameter of the trackers."""
    group = parser.add_argument_group('association')
    group.add_argument(
        '--association', choices=ASSOCIATIONS, default='robot', help='which rules (%(default)s)'
    )
    _add(group, TrackerConfig(), '')
    released = parser.add_argument_group('association tao or bdd, with the original names')
    _add(released, ReleasedConfig(), 'released_')


def config_from(arguments: argparse.Namespace) -> AnyConfig:
    """Return the tracker's options; raises ConfigError naming one that means nothing."""
    return make_config(arguments.association, lambda name: getattr(arguments, name), 'released_')


def _add(group: Any, config: AnyConfig, prefix: str) -> None:
    for field in dataclasses.fields(config):
        if field.name == 'rules':
            continue
        option = '--' + (prefix + field.name).replace('_', '-')
        if isinstance(field.default, bool):
            group.add_argument(
                option, action=argparse.BooleanOptionalAction, default=field.default
            )
        else:
            kind = type(field.default)
            group.add_argument(option, type=kind, default=field.default, help='(%(default)s)')
