# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Many recordings at once: found, fetched, tracked on a cluster, each whole or not at all."""
