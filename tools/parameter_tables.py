#!/usr/bin/env python3
# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Write config/tracker.yaml and the tables of docs/parameters.md from the declared options."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

from pages import write_between

from masa_ros import options
from masa_ros.methods import METHODS
from masa_ros.nodes.parameters import NodeConfig
from masa_ros.options import Option

ROOT = Path(__file__).resolve().parent.parent
YAML, PAGE = ROOT / 'config/tracker.yaml', ROOT / 'docs/parameters.md'
SET = ('method', 'model', 'device')
OFTEN = (
    *('weights', 'input_size', 'masks', 'score_threshold', 'max_instances', 'memory_seconds'),
    *('publish_tentative', 'publish_lost', 'cameras', 'given_detections', 'image_transport'),
    *('image_qos', 'max_rate', 'on_time_jump'),
)


def text_of(value: Any) -> str:
    """Return a value as YAML."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if isinstance(value, str) else str(value)


def limits_of(each: Option) -> str:
    """Return the allowed values as text."""
    if each.choices:
        return ', '.join(each.choices)
    if each.limits:
        low, high = each.limits
        return f'{low:g} .. {high:g}' + (f' or {each.special[0]:g}' if each.special else '')
    return ''


def yaml() -> str:
    """Return the text of config/tracker.yaml."""
    known = {each.name: each for each in options.listed(NodeConfig)}
    lines = [
        '# What people change most; docs/parameters.md has all of it. What is not set has the',
        '# default of the installed version: a copy of this file pins only what it sets.',
        '# Made by tools/parameter_tables.py.',
        '/**:',
        '  ros__parameters:',
    ]
    for name in (*SET, *OFTEN):
        each = known[name]
        limits = limits_of(each)
        about = each.described + (f' ({limits})' if limits else '')
        about += '' if each.live else ' [at configure]'
        lines += textwrap.wrap(about, 92, initial_indent='    # ', subsequent_indent='    # ')
        mark = '' if name in SET else '# '
        lines.append(f'    {mark}{name}: {text_of(each.default)}')
    return '\n'.join(lines) + '\n'


def table(listed: list[Option]) -> str:
    """Return a table of options."""
    rows = ['| parameter | default | values | live | meaning |', '| --- | --- | --- | --- | --- |']
    for each in listed:
        live = 'yes' if each.live else ''
        rows.append(
            f'| `{each.name}` | `{text_of(each.default)}` | {limits_of(each)} | {live} '
            f'| {each.described} |'
        )
    return '\n'.join(rows) + '\n'


def markdown() -> str:
    """Return one section for the node, and one for every method and what it can choose.

    What a method shares with one before it is named only.
    """
    every = {each.name: each for each in options.listed(NodeConfig, every=True)}
    of_methods = {
        name: options.listed(method.options, every=True) for name, method in METHODS.items()
    }
    theirs = {each.name for listed in of_methods.values() for each in listed}
    parts = ['## The node\n\n' + table([e for e in every.values() if e.name not in theirs])]
    told: list[Option] = []
    for name, listed in of_methods.items():
        shared = ', '.join(f'`{each.name}`' for each in listed if each in told)
        own = [each for each in listed if each not in told]
        parts.append(f'## Method `{name}`\n\n' + table(own))
        if shared:
            parts.append('\n'.join(textwrap.wrap(f'And as above: {shared}.', 110)) + '\n')
        told += own
    return '\n'.join(parts)


def main() -> int:
    """Write both files."""
    YAML.write_text(yaml())
    write_between(PAGE, 'parameters', markdown())
    return 0


if __name__ == '__main__':
    sys.exit(main())
