# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What every stage of a MASA network is fed, and gives, when engines of it are checked.

Every stage is fed what the float32 network feeds it, so that a fault is seen where it arises and
not hidden or multiplied by the choices (top-k, suppression) in between.
"""

from __future__ import annotations

import itertools
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
    look: Callable[[Tensor], Tensor] = lambda boxes: boxes,
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
    most = next(stage.most for name, stage in stages.items() if name != 'image')
    proposals = torch.cat((proposals[: most - 4], tiles(view, 2).to(proposals)))
    boxes = look(proposals)
    few = boxes[whole_boxes(boxes)]
    few = torch.cat((few[: _FEW - 4], tiles(view, 2).to(few)))
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


def tiles(view: View, side: int) -> Tensor:
    """Boxes (side * side, 4) in network pixels that cover the image, row by row."""
    x, y = view.columns / side, view.rows / side
    places = itertools.product(range(side), range(side))
    return torch.tensor([(i * x, j * y, i * x + x, j * y + y) for j, i in places])
