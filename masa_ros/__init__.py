"""ROS 2 perception: every object of a camera image with a mask, a box and an ID that stays.

The package imports in one direction: ``cli``, ``nodes``, ``replay``, ``training`` ->
``pipeline`` -> ``tracking``, ``engines`` -> ``models``. Only ``nodes`` imports ROS.
"""

__version__ = '0.1.0'
