# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""SAM-PT: points of objects are followed, and masks are drawn by them."""

from masa_ros.methods.sam_pt.method import SamPt
from masa_ros.methods.sam_pt.options import SamPtConfig

__all__ = ['SamPt', 'SamPtConfig']
