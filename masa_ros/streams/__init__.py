# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The rules of one stream of images, the same for every method and wherever images come from."""
