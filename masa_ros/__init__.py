"""ROS 2 perception: every object of a camera image with a mask, a box and an ID that stays.

docs/architecture.md has the rooms of the package and the direction in which they import each
other. Only ``nodes`` imports ROS.
"""

__version__ = '0.1.0'
