# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Files that the package installs beside its code: message definitions, launch, configuration."""

from __future__ import annotations

import os
from pathlib import Path

from masa_ros.errors import SourceError


def share_path(relative: str) -> Path:
    """Return a file such as ``msg/TrackedInstance.msg``, from a checkout or an installation.

    Raises
    ------
    SourceError
        When there is no such file; the text names the places that were looked at.

    """
    package = Path(__file__).resolve().parent  # resolves the links of a developer's installation
    places = [package.parent]
    places += [parent / 'share' / 'masa_ros' for parent in package.parents]
    prefixes = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    places += [Path(prefix) / 'share' / 'masa_ros' for prefix in prefixes if prefix]
    for place in places:
        if (place / relative).is_file():
            return place / relative
    raise SourceError(f'{relative} is in none of {", ".join(map(str, places))}')
