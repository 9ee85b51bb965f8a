#!/bin/bash
# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
# Runs a command in the workspace of the image.
set -e
source /ws/install/setup.bash
exec "$@"
