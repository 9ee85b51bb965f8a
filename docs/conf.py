# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Sphinx: the pages of this folder and the docstrings of the package, see ``make docs``."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import masa_ros
from masa_ros import options as declared

ROOT = Path(__file__).resolve().parent.parent

project = 'masa_ros'
author = 'masa_ros contributors'
project_copyright = author
version = release = masa_ros.__version__

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx.ext.viewcode']
exclude_patterns = ['README.md']  # index.md includes it

myst_enable_extensions = ['colon_fence']
myst_heading_anchors = 3

# The documented modules need no ROS; where one comes to, the build must not.
autodoc_mock_imports = ['rclpy', 'masa_ros.msg', 'sensor_msgs', 'builtin_interfaces', 'cv_bridge']
autodoc_default_options = {'members': True, 'show-inheritance': True}
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
toc_object_entries = False  # the sidebar would be as long as the page
autodoc_preserve_defaults = True
napoleon_google_docstring = False
# As parameters are: fields of their class, not entries of their own, several in a line.
napoleon_attr_annotations = False
napoleon_custom_sections = [('Attributes', 'params_style')]
viewcode_follow_imported_members = False

html_theme = 'alabaster'
html_theme_options = {
    'description': 'Segment and track everything in a camera stream',
    'page_width': '1100px',
    'sidebar_width': '230px',
    'fixed_sidebar': True,
}
html_show_sourcelink = False
html_copy_source = False

# Documents that live elsewhere, and their pages here.
PAGES = {
    'README.md': 'index.md',
    'docs/README.md': 'index.md',
    'CONTRIBUTING.md': 'project/contributing.md',
    'SECURITY.md': 'project/security.md',
    'QUALITY_DECLARATION.md': 'project/quality.md',
    'CHANGELOG.rst': 'project/changelog.rst',
}


def modules_of(name: str) -> list[str]:
    """Return a module, or a package with all its modules but those of commands."""
    path = ROOT.joinpath('masa_ros', *name.split('.'))
    if not path.is_dir():
        return [f'masa_ros.{name}']
    found = []
    for file in sorted(path.rglob('*.py')):
        parts = file.relative_to(ROOT).with_suffix('').parts
        if not parts[-1].endswith('command'):
            found.append('.'.join(parts[:-1] if parts[-1] == '__init__' else parts))
    return found


def list_modules(names: str) -> str:
    """Return what documents the modules, as a page has it."""
    modules = (module for name in names.split() for module in modules_of(name))
    return '\n'.join(
        f'## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n' for name in modules
    )


def lead(text: str, origin: Path, here: Path) -> str:
    """Let the links of a text from the folder ``origin`` lead to the same from ``here``.

    Sphinx offers files that are no pages for download. Folders cannot be linked and become plain
    text.
    """

    def link(match: re.Match[str]) -> str:
        path, mark, place = match[2].partition('#')
        target = (origin / path).resolve()
        if not target.exists():
            return match[0]
        page = PAGES.get(str(target.relative_to(ROOT)))
        if page:
            target = ROOT / 'docs' / page
        if target.is_dir():
            return match[1]
        return f'[{match[1]}]({os.path.relpath(target, here)}{mark}{place})'

    return re.sub(r'\[([^]]*)\]\(([^):#]+(?:#[^)]*)?)\)', link, text)


def read_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put modules and other documents where a page asks for them, and lead its links.

    ``<!-- modules: NAME NAME -->`` and ``<!-- include: FILE -->`` are invisible on a forge, and
    the former needs no change for a new module.
    """
    page = ROOT / 'docs' / f'{docname}.md'
    if not page.is_file():
        return  # restructured text

    def included(match: re.Match[str]) -> str:
        file = (page.parent / match[1]).resolve()
        text = re.sub('^# .*\n', '', file.read_text())  # the page has a title of its own
        return lead(text, file.parent, page.parent)

    text = lead(source[0], page.parent, page.parent)
    text = re.sub('<!-- include: (.*?) -->', included, text)
    source[0] = re.sub('<!-- modules: (.*?) -->', lambda m: list_modules(m[1]), text)


def rewrite_docstring(
    app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]
) -> None:
    """Bring this package's short form of numpydoc into the long one, before napoleon reads it.

    ``name: text`` is a description here and a type there; so is prose under Returns, and what
    stands before a colon in the text of a value.
    """
    rewritten: list[str] = []
    section = ''
    for number, raw in enumerate(lines):
        line = re.sub(r'(?<![*`\w\\])\*(?=\w[^*]*$)', r'\\*', raw)  # begins no emphasis
        following = lines[number + 1] if number + 1 < len(lines) else ''
        if line and set(following) == {'-'}:
            section = line
        entry = re.fullmatch(r'(\*{0,2}\w+(?:, \*{0,2}\w+)*):(?: (\S.*))?', line)
        if section in ('Parameters', 'Attributes') and entry:
            rewritten += [entry[1], f'    {entry[2]}'] if entry[2] else [entry[1]]
        elif section == 'Returns' and line and line != section and set(line) != {'-'}:
            # Indented below an empty type napoleon takes it for the description.
            if not rewritten[-1].startswith('    '):
                rewritten.append(':')
            rewritten.append(f'    {line.strip()}')
        elif not number and what in ('data', 'attribute', 'property') and ': ' in line:
            rewritten += [f'{part}:' for part in line.split(': ')[:-1]] + [line.split(': ')[-1]]
        else:
            rewritten.append(line)
    lines[:] = rewritten
    if what == 'class' and dataclasses.is_dataclass(obj):
        known = declared.listed(obj, every=True)
        lines += ['', 'Options, with their defaults:', ''] if known else []
        lines += [f'- ``{each.name}`` (``{each.default!r}``): {each.text}' for each in known]


def rewrite_signature(
    app: Sphinx,
    what: str,
    name: str,
    obj: object,
    options: Any,
    arguments: str | None,
    returned: str | None,
) -> tuple[str | None, ...]:
    """Write arrays as the source does, and no arguments for a class of options."""
    if what == 'class' and arguments and '<factory>' in arguments:
        arguments = ''
    array = re.compile(
        r'~?numpy\.ndarray\[tuple\[~?typing\.Any, \.\.\.\], ~?numpy\.dtype\[~?numpy\.(\w+)\]\]'
    )
    return tuple(text and array.sub(r'NDArray[\1]', text) for text in (arguments, returned))


def skip(
    app: Sphinx, what: str, name: str, obj: object, skipped: bool, options: Any
) -> bool | None:
    """Leave out the fields of named tuples, which their class describes; show those of enums."""
    if inspect.isdatadescriptor(obj) and 'tuplegetter' in type(obj).__name__:
        return True
    return False if isinstance(obj, enum.Enum) else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect all of it."""
    app.connect('source-read', read_page)
    app.connect('autodoc-skip-member', skip)
    app.connect('autodoc-process-signature', rewrite_signature)
    app.connect('autodoc-process-docstring', rewrite_docstring, priority=400)  # napoleon: 500
    return {'parallel_read_safe': True}
