# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What every stage of a MASA network is fed, and gives, when engines of it are checked.

Every stage is fed what the float32 network feeds it, so that a fault is seen where it arises and
not hidden or multiplied by the choices (top-k, suppression) in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from masa_ros.models.masa_stages import whole_boxes
from masa_ros.models.masks import View
from masa_ros.models.stages import Case, Run, Stage

_FEW = 20  # boxes that embeddings and masks are compared of


def make_case(
    stages: Mapping[str, Stage],
    run: Mapping[str, Run],
    view: View,
    tensors: Mapping[str, Tensor],
    proposals: Tensor,
    look: Callable[[Tensor], Tensor],
) -> Case:
    """Run the stages behind the image part on one image.

    Parameters
    ----------
    stages, run: of a network in float32, by name.
    view: how the image lies in the network input.
    tensors: the network input 'images' (1, 3, H, W), and what the image part made of it.
    proposals: (N, 4) boxes in network pixels.
    look: better boxes (N, 4) for boxes (N, 4).

    """
    # An image in which nothing is proposed still tests the engines, with its quarters.
    most = stages['boxes' if 'boxes' in stages else 'embeddings'].most
    proposals = torch.cat((proposals[: most - 4], _quarters(view).to(proposals)))
    boxes = look(proposals)
    few = boxes[whole_boxes(boxes)]
    few = torch.cat((few[: _FEW - 4], _quarters(view).to(few)))
    known = dict(tensors)
    inputs, outputs = {}, {'image': {key: known[key] for key in stages['image'].outputs}}
    for name, stage in stages.items():
        known['boxes'] = proposals if name == 'boxes' else few
        inputs[name] = {key: known[key] for key in stage.inputs}
        if name != 'image':
            outputs[name] = run[name](**inputs[name])
        if name == 'embeddings':
            known['pooled'] = outputs[name]['pooled']
    return Case(inputs, outputs)


def _quarters(view: View) -> Tensor:
    """Four boxes that cover the image."""
    x, y = view.columns / 2, view.rows / 2
    return torch.tensor([(i * x, j * y, i * x + x, j * y + y) for j in (0, 1) for i in (0, 1)])
