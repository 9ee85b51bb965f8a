# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Parts of documents that tools write."""

from __future__ import annotations

from pathlib import Path


def write_between(page: Path, mark: str, text: str) -> None:
    """Put text, whole lines, between the marks of a page: <!-- mark --> and <!-- /mark -->."""
    begin, end = f'<!-- {mark} -->\n', f'<!-- /{mark} -->\n'
    head, rest = page.read_text().split(begin)
    page.write_text(head + begin + text + end + rest.split(end)[1])
