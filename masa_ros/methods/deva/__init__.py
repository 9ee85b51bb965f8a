# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""DEVA: carry masks on, and merge them every few frames with what several frames agree on."""

from masa_ros.methods.deva.method import Deva
from masa_ros.methods.deva.options import DevaConfig

__all__ = ['Deva', 'DevaConfig']
