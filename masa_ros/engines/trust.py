"""Does an engine compute what the network computes? Engines are used only when it does.

Every stage is fed what the float32 network, run by plain PyTorch, feeds it, so that a fault is
seen where it arises and not hidden or multiplied by the choices (top-k, suppression) in between.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor

from masa_ros.models.detector import Detector
from masa_ros.models.heads import clip_boxes
from masa_ros.models.masks import View
from masa_ros.models.stages import AT_ONCE, Run

_FEW = 20  # boxes that embeddings and masks are compared of
_BEST = 100  # candidates that must be found again


class Sample(NamedTuple):
    """What the reference made of one image, stage by stage.

    Attributes
    ----------
    tensors: inputs of all stages and outputs of the stage 'image', by name.
    outputs: of the other stages, by stage and name.
    view: of the image.

    """

    tensors: dict[str, dict[str, Tensor]]
    outputs: dict[str, dict[str, Tensor]]
    view: View


@torch.inference_mode()
def make_samples(reference: Detector, inputs: Sequence[tuple[Tensor, View]]) -> list[Sample]:
    """Run a float32 detector eagerly; ``inputs`` are results of its ``preprocess``."""
    samples = []
    for images, view in inputs:
        encoded = reference.encode_tensor(images, view)[0]
        proposals = reference.propose(encoded)
        # An image in which nothing is proposed still tests the engines, with its quarters.
        proposals = torch.cat((proposals[: AT_ONCE['boxes'] - 4], _quarters(view).to(proposals)))
        boxes = clip_boxes(reference.judge(encoded, proposals)[0], view.rows, view.columns)
        few = boxes[_whole(boxes)]
        few = torch.cat((few[: _FEW - 4], _quarters(view).to(few)))
        known = {'images': images, **encoded.tensors}
        asked, outputs = {}, {'image': encoded.tensors}
        for name, stage in reference.stages.items():
            known['boxes'] = proposals if name == 'boxes' else few
            asked[name] = {key: known[key] for key in stage.inputs}
            if name != 'image':
                outputs[name] = encoded.run[name](**asked[name])
            if name == 'looks':
                known['pooled'] = outputs['looks']['pooled']
        samples.append(Sample(asked, outputs, view))
    return samples


def _quarters(view: View) -> Tensor:
    """Four boxes that cover the image."""
    x, y = view.columns / 2, view.rows / 2
    return torch.tensor([(i * x, j * y, i * x + x, j * y + y) for j in (0, 1) for i in (0, 1)])


@dataclasses.dataclass(frozen=True)
class Measure:
    """One figure of agreement.

    Attributes
    ----------
    name: what was compared.
    value: 1 is full agreement, lower is worse.
    limit: the least that is accepted.

    """

    name: str
    value: float
    limit: float

    @property
    def good(self) -> bool:
        """Whether it is accepted; NaN is not."""
        return self.value >= self.limit

    def __str__(self) -> str:
        """Return for example ``embedding cosine, least 0.9991 (limit 0.99)``."""
        return f'{self.name} {self.value:.5f} (limit {self.limit:g})'


LIMITS = {
    'map cosine, least': 0.998,
    'best candidates found again': 0.95,
    'box IoU, mean': 0.99,
    'box IoU, 1st percentile': 0.9,
    'score, 1 - largest error': 0.95,
    'score, 1 - mean error': 0.99,
    'embedding cosine, mean': 0.998,
    'embedding cosine, least': 0.98,
    'mask IoU, mean': 0.98,
    'mask IoU, least': 0.8,
}
"""The least agreement that is accepted. Where a score threshold or an edge runs, rounding decides
single instances and pixels: means are held tightly, the worst case loosely."""


@torch.inference_mode()
def compare(name: str, run: Run, samples: Sequence[Sample]) -> list[Measure]:
    """Compare a stage on all samples; the measures are the worst of them."""
    worst: dict[str, float] = {}
    for sample in samples:
        expected = {k: v.float().cpu() for k, v in sample.outputs[name].items()}
        found = {k: v.float().cpu() for k, v in run(**sample.tensors[name]).items()}
        for key, value in _MEASURES[name](expected, found, sample.view).items():
            finite = all(bool(x.isfinite().all()) for x in found.values())
            value = value if finite else float('nan')
            before = worst.get(key, value)
            worst[key] = value if value < before or value != value else before
    return [Measure(key, value, LIMITS[key]) for key, value in worst.items()]


Tensors = dict[str, Tensor]


def _image(expected: Tensors, found: Tensors, view: View) -> dict[str, float]:
    maps = [key for key in expected if key not in ('candidates', 'logits')]
    cosines = [float(torch.cosine_similarity(*_flat(expected[k], found[k]))) for k in maps]
    scores, theirs = expected['logits'][0].sigmoid(), found['logits'][0].sigmoid()
    shape = (view.rows, view.columns)
    boxes = clip_boxes(expected['candidates'][0], *shape)
    whole = torch.nonzero(_whole(boxes))[:, 0]
    best = whole[scores[whole].topk(min(_BEST, len(whole))).indices]
    wanted = boxes[best]
    there = clip_boxes(found['candidates'][0], *shape)
    near = torchvision.ops.box_iou(wanted, there) > 0.9
    alike = near & ((scores[best][:, None] - theirs[None]).abs() < 0.05)
    return {
        'map cosine, least': min(cosines),
        'best candidates found again': float(alike.any(1).float().mean()),
    }


def _whole(boxes: Tensor) -> Tensor:
    """Tell (N,) which boxes have two pixels a side: the IoU of a sliver is rounding alone."""
    return (boxes[:, 2:] - boxes[:, :2] >= 2).all(1)


def _flat(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return a.reshape(1, -1).double(), b.reshape(1, -1).double()


def _boxes(expected: Tensors, found: Tensors, view: View) -> dict[str, float]:
    shape = (view.rows, view.columns)
    ours, theirs = (clip_boxes(side['boxes'], *shape) for side in (found, expected))
    whole = _whole(theirs)
    iou = torchvision.ops.box_iou(ours[whole], theirs[whole]).diagonal()
    error = (found['scores'] - expected['scores']).abs()
    return {
        'box IoU, mean': float(iou.mean()),
        'box IoU, 1st percentile': float(iou.quantile(0.01)),
        'score, 1 - largest error': 1 - float(error.max()),
        'score, 1 - mean error': 1 - float(error.mean()),
    }


def _looks(expected: Tensors, found: Tensors, view: View) -> dict[str, float]:
    cosine = torch.cosine_similarity(found['embeddings'], expected['embeddings'])
    return {
        'embedding cosine, mean': float(cosine.mean()),
        'embedding cosine, least': float(cosine.min()),
    }


def _masks(expected: Tensors, found: Tensors, view: View) -> dict[str, float]:
    ours, theirs = (side['masks'].flatten(1) > 0 for side in (found, expected))
    union = (ours | theirs).sum(1)
    iou = (ours & theirs).sum(1) / union.clamp(min=1)
    iou[union < 16] = 1.0  # next to nothing in both
    return {'mask IoU, mean': float(iou.mean()), 'mask IoU, least': float(iou.min())}


_MEASURES = {'image': _image, 'boxes': _boxes, 'looks': _looks, 'masks': _masks}
