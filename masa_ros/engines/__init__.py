# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How a network runs: eager PyTorch, torch.compile, TensorRT, OpenVINO. Build, check, keep.

``prepare.Engines`` does it all for what ``compilable.Compilable`` says; ``runtimes`` says what a
runtime is. Nothing here knows a model.
"""
