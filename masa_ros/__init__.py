# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""ROS 2 perception: every object of a camera image with a mask, a box and an ID that stays.

docs/architecture.md has the rooms of the package and the direction in which they import each
other. Only ``nodes`` imports ROS.
"""


def __getattr__(name: str) -> str:
    """Return ``__version__``: what package.xml says, by which the package was installed."""
    if name != '__version__':
        raise AttributeError(f"module 'masa_ros' has no attribute '{name}'")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version('masa_ros')
    except PackageNotFoundError:  # a checkout on the path, nothing installed
        return 'unknown'
