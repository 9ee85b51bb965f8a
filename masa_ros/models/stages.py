"""The network in the pieces that are compiled: tensors of known shape in, tensors out.

Between the pieces stand only non-maximum suppression and the choice of what to draw, whose results
have no static shape. A stage is a plain module without data-dependent control flow, so that it can
be exported whole; only the number of boxes, the first axis of ``boxes`` and of what follows from
it, is free.

=======  ==========================================  =============================================
stage    inputs                                      outputs
=======  ==========================================  =============================================
image    images (B, 3, H, W)                         level0 ... (B, C, ., .), detail where there
                                                     are masks, candidates (B, K, 4), logits (B, K)
boxes    boxes (N, 4), level0 ... of one image       boxes (N, 4) refined, scores (N,)
looks    boxes (N, 4), level0 ... of one image       pooled (N, C, 7, 7), embeddings (N, E)
masks    boxes (N, 4), pooled where the head      masks: (N, S, S) logits
         reads it, detail of one image
=======  ==========================================  =============================================

Boxes are float32 xyxy in network pixels, scores float32, everything else has the dtype of the
network. Boxes are refined without being clipped to the image: where it ends depends on the camera.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from masa_ros.models.configs import ModelConfig
from masa_ros.models.heads import decode_boxes
from masa_ros.models.network import MasaNetwork

Run = Callable[..., dict[str, Tensor]]
"""What runs a stage: its named inputs in, its named outputs out."""

AT_ONCE = {'boxes': 1000, 'looks': 100, 'masks': 50}
"""Boxes that a stage takes at once; it is called again for more."""


class Stage(nn.Module):
    """One piece of a network.

    Attributes
    ----------
    name: 'image', 'boxes', 'looks' or 'masks'.
    inputs, outputs: names of the tensors of ``forward``, in their order.

    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __init__(self, network: MasaNetwork) -> None:
        super().__init__()
        self.levels = tuple(f'level{i}' for i in range(network.config.levels))
        self.pooled_levels = self.levels[: network.config.roi_levels]

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the inputs that have a row for each box."""
        return tuple(name for name in self.inputs if name in ('boxes', 'pooled'))

    @property
    def per_box(self) -> bool:
        """Whether the first axis of ``boxes`` and of all outputs is the free number of boxes."""
        return self.inputs[0] == 'boxes'

    def arrange(self, tensors: dict[str, Tensor], dtype: torch.dtype) -> list[Tensor]:
        """Put named inputs in their order, feature maps in the given type."""
        return [
            tensors[name] if name == 'boxes' else tensors[name].to(dtype) for name in self.inputs
        ]


class ImageStage(Stage):
    """Backbone, pyramid, fusion and the best anchors of the proposal head."""

    name = 'image'
    inputs = ('images',)

    def __init__(self, network: MasaNetwork, candidates: int) -> None:
        super().__init__(network)
        self.network, self.candidates = network, candidates
        detail = () if network.masks is None else ('detail',)
        self.outputs = (*self.levels, *detail, 'candidates', 'logits')

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the table above."""
        features = self.network(images)
        head = self.network.proposals
        logits, deltas = head(features.levels)
        boxes, logits = head.candidates(logits, deltas, self.candidates)
        detail = () if features.detail is None else (features.detail,)
        return (*features.levels, *detail, boxes, logits)


class BoxStage(Stage):
    """Box head: score and refine boxes."""

    name = 'boxes'
    outputs = ('boxes', 'scores')

    def __init__(self, network: MasaNetwork) -> None:
        super().__init__(network)
        self.inputs = ('boxes', *self.pooled_levels)
        self.pool, self.head = network.pool, network.boxes

    def forward(self, boxes: Tensor, *levels: Tensor) -> tuple[Tensor, ...]:
        """See the table above."""
        cls, reg = self.head(self.pool(levels, boxes, _one_image(boxes)))
        return decode_boxes(boxes, reg, self.head.STDS), cls.float().softmax(1)[:, 0]


class LookStage(Stage):
    """Features and embeddings of boxes."""

    name = 'looks'
    outputs = ('pooled', 'embeddings')

    def __init__(self, network: MasaNetwork) -> None:
        super().__init__(network)
        self.inputs = ('boxes', *self.pooled_levels)
        self.pool, self.embed = network.pool, network.embed

    def forward(self, boxes: Tensor, *levels: Tensor) -> tuple[Tensor, ...]:
        """See the table above."""
        pooled = self.pool(levels, boxes, _one_image(boxes))
        return pooled, self.embed(pooled).float()


class MaskStage(Stage):
    """Masks of boxes."""

    name = 'masks'
    outputs = ('masks',)

    def __init__(self, network: MasaNetwork) -> None:
        super().__init__(network)
        self.head = network.masks
        pooled = ('pooled',) if self.head.reads_pooled else ()
        self.inputs = ('boxes', *pooled, 'detail')

    def forward(self, boxes: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
        """See the table above."""
        pooled, detail = maps if self.head.reads_pooled else (None, *maps)
        return (self.head(detail, pooled, boxes, _one_image(boxes)),)


class Eager:
    """Run a stage as it is."""

    def __init__(self, stage: Stage, dtype: torch.dtype) -> None:
        self.stage, self.dtype = stage, dtype

    def __call__(self, **tensors: Tensor) -> dict[str, Tensor]:
        """Named inputs, of any floating type, to named outputs."""
        inputs = self.stage.arrange(tensors, self.dtype)
        return dict(zip(self.stage.outputs, self.stage(*inputs)))


def stages_of(network: MasaNetwork, model: ModelConfig) -> dict[str, Stage]:
    """Return the stages of a network by name; they share its parameters."""
    stages = [ImageStage(network, model.candidates), BoxStage(network), LookStage(network)]
    if network.masks is not None:
        stages.append(MaskStage(network))
    return {stage.name: stage.eval() for stage in stages}


def _one_image(boxes: Tensor) -> Tensor:
    """Index of the image of each box in a batch of one."""
    return torch.zeros_like(boxes[:, 0], dtype=torch.long)
