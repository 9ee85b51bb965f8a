# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Networks: tensors in, tensors out; the zoo, weights files, and the detector around them."""
