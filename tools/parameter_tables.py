#!/usr/bin/env python3
"""Write config/tracker.yaml and the parameter table of docs/node.md from the declared table."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from masa_ros.nodes.parameters import PARAMETERS, Parameter

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = '<!-- parameters -->\n', '<!-- /parameters -->\n'


def text_of(value: object) -> str:
    """Return a value as YAML."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if isinstance(value, str) else str(value)


def limits_of(parameter: Parameter) -> str:
    """Return the allowed values as text."""
    if parameter.choices:
        return ', '.join(parameter.choices)
    if parameter.limits:
        low, high = parameter.limits
        return f'{low:g} .. {high:g}'
    return ''


def yaml() -> str:
    """Return the text of config/tracker.yaml."""
    lines = [
        '# Every parameter of the tracker node with its default.',
        '# Made by tools/parameter_tables.py from masa_ros/nodes/parameters.py.',
        '/**:',
        '  ros__parameters:',
    ]
    for parameter in PARAMETERS:
        limits = limits_of(parameter)
        about = parameter.description + (f' ({limits})' if limits else '')
        about += '' if parameter.live else ' [at configure]'
        lines += textwrap.wrap(about, 92, initial_indent='    # ', subsequent_indent='    # ')
        lines.append(f'    {parameter.name}: {text_of(parameter.default)}')
    return '\n'.join(lines) + '\n'


def markdown() -> str:
    """Return the parameter table."""
    rows = ['| parameter | default | values | live | meaning |', '| --- | --- | --- | --- | --- |']
    for p in PARAMETERS:
        live = 'yes' if p.live else ''
        rows.append(
            f'| `{p.name}` | `{text_of(p.default)}` | {limits_of(p)} | {live} | {p.description} |'
        )
    return '\n'.join(rows) + '\n'


def main() -> int:
    """Write both files."""
    (ROOT / 'config' / 'tracker.yaml').write_text(yaml())
    document = ROOT / 'docs' / 'node.md'
    text = document.read_text()
    head, rest = text.split(BEGIN)
    document.write_text(head + BEGIN + markdown() + END + rest.split(END)[1])
    return 0


if __name__ == '__main__':
    sys.exit(main())
