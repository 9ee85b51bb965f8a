# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""MASA: detect what is in a frame, embed it, associate it with what was there before."""

from masa_ros.methods.masa.method import Masa
from masa_ros.methods.masa.options import MasaConfig

__all__ = ['Masa', 'MasaConfig']
