# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Ways of tracking. A further one is a folder here and a line of ``METHODS``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from masa_ros import options
from masa_ros.errors import ConfigError
from masa_ros.methods.deva import Deva
from masa_ros.methods.masa import Masa
from masa_ros.methods.protocol import Log, Method, Session
from masa_ros.methods.sam_pt import SamPt
from masa_ros.methods.sam_track import SamTrack
from masa_ros.options import Variant

METHODS: dict[str, type[Method[Any]]] = {
    'masa': Masa,
    'deva': Deva,
    'sam_track': SamTrack,
    'sam_pt': SamPt,
}

REPEATABLE: Mapping[str, Any] = {'runtime': 'eager', 'warm_start': False}
"""Defaults of commands that give the same every time.

No two runs agree when engines are put to use in the middle of one.
"""

ABSENT = 'only those of what is chosen exist: --method, --detector, ...'
"""Why an option of a method may not be there, for the command line."""

__all__ = [
    'ABSENT',
    'METHODS',
    'REPEATABLE',
    'Log',
    'Method',
    'Session',
    'add_arguments',
    'load',
    'names',
    'option_variants',
]


def names() -> tuple[str, ...]:
    """Return the names of all methods, the default first."""
    return tuple(METHODS)


def option_variants() -> dict[str, Variant]:
    """Return the options of every method, for ``options.variants``."""
    return {name: Variant(method.options) for name, method in METHODS.items()}


def load(name: str, config: Any = None, log: Log = lambda text: None) -> Method[Any]:
    """Load a method by name; without options with its defaults.

    Raises
    ------
    ConfigError, WeightsError, EngineError
        See ``Method.load``.

    """
    if name not in METHODS:
        raise ConfigError(f"no method is called '{name}'; there are: {', '.join(METHODS)}")
    method = METHODS[name]
    return method.load(method.options() if config is None else config, log)


def add_arguments(
    parser: argparse.ArgumentParser,
    arguments: list[str],
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Declare the choice of a method and the options of the one that ``arguments`` choose.

    ``defaults`` are those of the command, where they are not those of the options.
    """
    parser.add_argument(
        '--method', choices=names(), default=names()[0], help='way of tracking (%(default)s)'
    )
    chosen = options.peek(arguments, 'method').get('method', names()[0])
    if chosen in METHODS:
        group = parser.add_argument_group(f'method {chosen}')
        kind = METHODS[chosen].options
        selectors = options.peek(arguments, *options.selectors(kind))
        options.add_arguments(group, kind, selectors, defaults)
