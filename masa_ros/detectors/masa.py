# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A loaded MASA network: RGB image in, untracked instances out."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from numpy.typing import NDArray
from torch import Tensor

from masa_ros import options
from masa_ros.detectors.masa_cases import make_case
from masa_ros.detectors.protocol import check_images
from masa_ros.errors import ConfigError
from masa_ros.models import checkpoints
from masa_ros.models.configs import ModelConfig
from masa_ros.models.devices import choose_device
from masa_ros.models.files import MODEL_FILES, fingerprint, locate
from masa_ros.models.heads import clip_boxes, select_proposals
from masa_ros.models.masa_stages import masa_stages
from masa_ros.models.masks import Pasted, View, mask_nms
from masa_ros.models.network import MasaNetwork
from masa_ros.models.precision import PRECISIONS, storage
from masa_ros.models.stages import Case, Eager, Run, Runs, Stage, joined, run_rows
from masa_ros.models.upload import to_device
from masa_ros.models.zoo import ZOO, model_config
from masa_ros.options import option
from masa_ros.types import Frame, Instances

# ImageNet statistics of 0..255 RGB, as in the released models.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)

_OWN, _OWN_COUNT = (-1, "the model's own"), (0, "the model's own")


@dataclasses.dataclass(frozen=True)
class DetectorConfig:
    """Options of a MASA network; raises ConfigError naming one that means nothing."""

    model: str = option('masa_nano', 'name of the model', choices=tuple(ZOO))
    weights: str = option(
        '', 'path of a weights file; empty: the one shipped with the model, or fetched for it'
    )
    device: str = option('auto', "where to run: 'auto', 'cpu', 'cuda' or 'cuda:N'")
    precision: str = option(
        'auto',
        'arithmetic of the network; auto: fp16 on a GPU, fp32 on a CPU; mixed: fp16 for '
        'convolutions and linear layers alone',
        choices=('auto', *PRECISIONS),
    )
    input_size: int = option(
        0,
        "long side of the network's input, pixels. Larger finds smaller objects and is slower",
        1,
        4096,
        special=_OWN_COUNT,
        live=True,
    )
    masks: bool = option(True, 'predict masks', live=True)
    score_threshold: float = option(
        -1.0,
        'detections below this score are dropped before association',
        0,
        1,
        special=_OWN,
        live=True,
    )
    nms_iou: float = option(
        -1.0,
        'of two boxes that overlap more the better one stays',
        0,
        1,
        special=_OWN,
        live=True,
    )
    mask_share: float = option(
        -1.0,
        'of two masks the smaller of which lies in the other by more than this share, the better '
        'one stays; 1: both',
        0,
        1,
        special=_OWN,
        live=True,
    )
    max_instances: int = option(
        0, 'at most that many detections', 1, 1000, special=_OWN_COUNT, live=True
    )

    def __post_init__(self) -> None:
        """Check every value by itself."""
        options.check(self)


def fitted_size(height: int, width: int, long_side: int, short_side: int) -> tuple[int, int]:
    """(rows, columns) of an image scaled to fit both sides, its proportions kept."""
    scale = min(long_side / max(height, width), short_side / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(
    image: NDArray[np.uint8], size: tuple[int, int], antialias: bool, device: str
) -> Tensor:
    """Bilinear (h, w, 3) -> (1, 3, *size) on the device.

    Official models were trained on what OpenCV makes of floats, without antialias; on a CPU they
    get exactly that. torch rounds the positions otherwise, by some 1e-5 pixels.
    """
    rows, columns = size
    if device == 'cpu' and not antialias:
        pixels = cv2.resize(image.astype(np.float32), (columns, rows))
        return torch.from_numpy(pixels).permute(2, 0, 1)[None]
    tensor = to_device(image, device).permute(2, 0, 1)[None]
    if tensor.is_cuda:
        tensor = tensor.float()  # bytes are resized as they are only on a CPU
    return F.interpolate(tensor, size, mode='bilinear', align_corners=False, antialias=antialias)


def normalise(images: Tensor) -> Tensor:
    """RGB 0..255 (B, 3, H, W), any dtype -> float32 network input, channels last."""
    mean = torch.tensor(MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=images.device).view(1, 3, 1, 1)
    normalised = (images.float() - mean) / std
    return normalised.contiguous(memory_format=torch.channels_last)


class Encoded(NamedTuple):
    """What the network's image part made of one image.

    Attributes
    ----------
    tensors: outputs of the stage 'image' by name, see ``masa_ros.models.stages``.
    view: how the image lies in the network input.
    run: the stages that go on with them.

    """

    tensors: dict[str, Tensor]
    view: View
    run: Mapping[str, Run]


class MasaDetector:
    """Segment everything in single images. Holds no state between images.

    A ``Detector``, and ``masa_ros.engines.compilable.Compilable``.

    Attributes
    ----------
    name: of the model.
    device: where it runs, for example 'cpu' or 'cuda:0'.
    precision: in which: 'fp32', 'fp16' or 'mixed'.
    stages: the pieces of the network as modules, by name.
    eager: what runs them by plain PyTorch.
    runs: what runs them, asked with every batch of images.

    """

    takes_words = False

    def __init__(
        self, model: ModelConfig, network: MasaNetwork, config: DetectorConfig, device: str
    ) -> None:
        self.model, self.name = model, model.name
        self.config = config
        self.device = device
        self.weights = 'random'
        self.precision = config.precision
        if config.precision == 'auto':
            self.precision = 'fp16' if device.startswith('cuda') else 'fp32'
        self.network = network.eval().to(device).to(memory_format=torch.channels_last)
        PRECISIONS[self.precision](self.network)
        self.stages: Mapping[str, Stage] = masa_stages(self.network, model)
        dtype = storage(self.precision)
        self.eager: Mapping[str, Run] = {
            name: Eager(stage, dtype) for name, stage in self.stages.items()
        }
        self.runs: Runs = self._run_eagerly

    @classmethod
    def load(cls, config: DetectorConfig) -> MasaDetector:
        """Build the network and read its weights.

        Raises
        ------
        ConfigError
            For an unknown model, an absent device, a precision the device does not have.
        WeightsError
            When the weights file is missing or does not fit.

        """
        model = model_config(config.model)
        device = choose_device(config.device)
        if config.precision in ('fp16', 'mixed') and device.type == 'cpu':
            raise ConfigError(
                f'precision {config.precision} needs a CUDA device; on the CPU take fp32 or auto'
            )
        _check_size(model, config)
        path = Path(config.weights) if config.weights else model.shipped_weights
        path = path or locate(MODEL_FILES[model.name])
        network = MasaNetwork(model.network)
        checkpoints.load(network, path, model)
        detector = cls(model, network, config, str(device))
        detector.weights = f'{path.name} sha256:{fingerprint(path)[:12]}'
        return detector

    def facts(self) -> Mapping[str, Any]:
        """Return what was loaded: model, weights, parameters, device, precision."""
        return {
            'model': self.name,
            'weights': self.weights,
            'parameters': sum(p.numel() for p in self.network.parameters()),
            'device': self.device,
            'precision': self.precision,
        }

    def configure(self, config: DetectorConfig) -> None:
        """Take new thresholds; model, weights, device and precision stay as they were loaded.

        Raises
        ------
        ConfigError
            For an input size that the model does not take; nothing has changed then.

        """
        _check_size(self.model, config)
        loaded = {name: getattr(self.config, name) for name in _LOADED}
        self.config = dataclasses.replace(config, **loaded)

    def __call__(self, image: NDArray[np.uint8], given: Instances | None = None) -> Instances:
        """Find instances in an (H, W, 3) uint8 RGB image, or describe those that are given.

        Raises
        ------
        ImageError
            When the array is not such an image.

        """
        encoded = self.encode([image])[0]
        return self.find(encoded) if given is None else self.describe(encoded, given)

    def detect(self, frames: Sequence[Frame], words: Sequence[str] = ()) -> list[Instances]:
        """Find instances in every frame; see ``Detector``."""
        found: list[Instances] = []
        for _, alike in itertools.groupby(frames, key=lambda frame: frame.image.shape):
            found += map(self.find, self.encode([frame.image for frame in alike]))
        return found

    @torch.inference_mode()
    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[Encoded]:
        """Run the image part of the network on (H, W, 3) uint8 RGB images.

        Eagerly they are one batch; engines take one after the other.

        Raises
        ------
        ImageError
            When an array is not such an image, or the images have not all one size.

        """
        check_images(images)
        tensors, views = zip(*(self.preprocess(image) for image in images))
        return self.encode_tensor(joined(list(tensors)), views[0])

    def encode_tensor(self, tensor: Tensor, view: View) -> list[Encoded]:
        """Do the same with what ``preprocess`` made: (B, 3, H, W), all of one view."""
        return self._encode(tensor, view, self.runs((tensor.shape[2], tensor.shape[3])))

    def _encode(self, tensor: Tensor, view: View, run: Mapping[str, Run]) -> list[Encoded]:
        if run is not self.eager:  # engines are built for one image
            return [Encoded(run['image'](images=image), view, run) for image in tensor.split(1)]
        made = run['image'](images=tensor)
        return [
            Encoded({name: value[i : i + 1] for name, value in made.items()}, view, run)
            for i in range(len(tensor))
        ]

    def _run_eagerly(self, shape: tuple[int, int]) -> Mapping[str, Run]:
        return self.eager

    @torch.inference_mode()
    def find(self, encoded: Encoded) -> Instances:
        """Return everything in the image, best score first."""
        boxes, scores = self.select(encoded, self.propose(encoded))
        found, masks = self._instances(encoded, boxes, scores), None
        pooled, embeddings = self.embed(encoded, boxes)
        if self._draws_masks:
            pasted = self._masks(encoded, boxes, pooled, found.boxes)
            masks = tuple(pasted.masks)
            limit = _choose(self.model.mask_share, self.config.mask_share)
            if limit < 1:
                kept = mask_nms(pasted.covers, limit)
                found, embeddings = found[kept], embeddings[kept]
                masks = tuple(masks[i] for i in kept)
        return dataclasses.replace(found, embeddings=embeddings, masks=masks)

    @torch.inference_mode()
    def describe(self, encoded: Encoded, given: Instances) -> Instances:
        """Give embeddings and masks to detections of somebody else.

        They come back all and in their order, with masks where the model draws them and they had
        none ("detect and track anything", paper section 3.2.3).
        """
        boxes = self._scaled(given.boxes, encoded.view)
        pooled, embeddings = self.embed(encoded, boxes)
        masks = given.masks
        if masks is None and self._draws_masks:
            masks = tuple(self._masks(encoded, boxes, pooled, given.boxes).masks)
        return dataclasses.replace(given, embeddings=embeddings, masks=masks)

    @torch.inference_mode()
    def probe(self, encoded: Encoded, boxes: NDArray[np.float32]) -> Instances:
        """Return the object that the box head sees at each of the boxes (N, 4), in their order.

        The boxes, pixels of the image, take the place of proposals, so that an object which the
        proposals missed is found by whoever knows where to look.
        """
        view = encoded.view
        asked = clip_boxes(self._scaled(boxes, view), view.rows, view.columns)
        refined, scores = self.refine(encoded, asked)
        pooled, embeddings = self.embed(encoded, refined)
        there, masks = self._instances(encoded, refined, scores), None
        if self._draws_masks:
            masks = tuple(self._masks(encoded, refined, pooled, there.boxes).masks)
        return dataclasses.replace(there, embeddings=embeddings, masks=masks)

    def _scaled(self, boxes: NDArray[np.float32], view: View) -> Tensor:
        """Bring boxes (N, 4) from pixels of the image to network pixels."""
        scaled = torch.from_numpy(np.ascontiguousarray(boxes)) * _scale(view)
        return scaled.to(self.device)

    @property
    def _draws_masks(self) -> bool:
        return self.network.masks is not None and self.config.masks

    def _masks(
        self, encoded: Encoded, boxes: Tensor, pooled: Tensor, window: NDArray[np.float32]
    ) -> Pasted:
        """Masks of boxes in network pixels, which are ``window`` in the image."""
        (logits,) = self._per_box('masks', encoded, boxes, pooled)
        found: Pasted = self.network.masks.paste(logits, window, encoded.view)
        return found

    def _per_box(
        self, name: str, encoded: Encoded, boxes: Tensor, pooled: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Run a stage on any number of boxes."""
        rows = {'boxes': boxes} if pooled is None else {'boxes': boxes, 'pooled': pooled}
        tensors = {**encoded.tensors, **rows}
        return tuple(run_rows(self.stages[name], encoded.run[name], tensors).values())

    def _instances(self, encoded: Encoded, boxes: Tensor, scores: Tensor) -> Instances:
        """Instances without masks and embeddings from boxes in network pixels."""
        return Instances(
            boxes=(boxes.cpu() / _scale(encoded.view)).numpy(),
            scores=scores.cpu().numpy(),
        )

    def preprocess(self, image: NDArray[np.uint8]) -> tuple[Tensor, View]:
        """Resize to the network's input size, normalise, pad right and bottom with zeros.

        Returns
        -------
        (1, 3, H, W) network input, and how the image lies in it.

        """
        height, width = image.shape[:2]
        rows, columns = self._fitted(height, width)
        tensor = normalise(resize(image, (rows, columns), self.model.antialias, self.device))
        padded_rows, padded_columns = self.input_shape(height, width)
        padded = F.pad(tensor, (0, padded_columns - columns, 0, padded_rows - rows))
        return padded, View(height, width, rows, columns)

    def input_shape(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) of the network input for images of this size."""
        rows, columns = self._fitted(height, width)
        step = self.model.pad_multiple
        return rows + -rows % step, columns + -columns % step

    def _fitted(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of the image in the network input."""
        model = self.model
        long_side = self.config.input_size or model.input_size
        short_side = model.short_side * long_side // model.input_size
        return fitted_size(height, width, long_side, short_side or long_side)

    def propose(self, encoded: Encoded) -> Tensor:
        """Return the best boxes (N, 4) of the proposal head in network pixels."""
        model, view, tensors = self.model, encoded.view, encoded.tensors
        levels = [tensors[key] for key in self.levels]
        return select_proposals(
            tensors['candidates'][0],
            tensors['logits'][0],
            self.network.proposals.candidate_levels(levels, model.candidates),
            (view.rows, view.columns),
            model.proposal_nms_iou,
            model.proposals,
        )[0]

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the fused maps among ``Encoded.tensors``, finest first."""
        return tuple(f'level{i}' for i in range(self.model.network.levels))

    def select(self, encoded: Encoded, proposals: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the box head keeps of proposals (N, 4): boxes (M, 4), scores (M,)."""
        model, config = self.model, self.config
        boxes, scores = self.refine(encoded, proposals)
        large = ((boxes[:, 2:] - boxes[:, :2]) >= model.min_side).all(1)
        kept = large & (scores > _choose(model.score_threshold, config.score_threshold))
        boxes, scores = boxes[kept], scores[kept]
        limit = config.max_instances or model.max_instances
        best = torchvision.ops.nms(boxes, scores, _choose(model.nms_iou, config.nms_iou))[:limit]
        return boxes[best], scores[best]

    def refine(self, encoded: Encoded, proposals: Tensor) -> tuple[Tensor, Tensor]:
        """Run the box head: (N, 4) -> better boxes (N, 4) inside the image, scores (N,)."""
        boxes, scores = self._per_box('boxes', encoded, proposals)
        return clip_boxes(boxes, encoded.view.rows, encoded.view.columns), scores

    def embed(self, encoded: Encoded, boxes: Tensor) -> tuple[Tensor, NDArray[np.float32]]:
        """Features (N, C, 7, 7) and embeddings (N, E) of boxes (N, 4) in network pixels."""
        pooled, embeddings = self._per_box('embeddings', encoded, boxes)
        return pooled, np.asarray(embeddings.cpu().numpy())

    def reference(self) -> MasaDetector:
        """Return the same network in float32, run by plain PyTorch.

        Raises
        ------
        WeightsError
            When its weights are not there any more.

        """
        if self.precision == 'fp32':
            return self
        return MasaDetector.load(dataclasses.replace(self.config, precision='fp32'))

    @torch.inference_mode()
    def cases(self, images: Sequence[NDArray[np.uint8]]) -> list[Case]:
        """Run all stages eagerly on (H, W, 3) uint8 RGB images of the size of network inputs."""
        cases = []
        for image in images:
            view = View(*image.shape[:2], *image.shape[:2])
            tensor = normalise(to_device(image, self.device).permute(2, 0, 1)[None])
            (encoded,) = self._encode(tensor, view, self.eager)
            tensors = {'images': tensor, **encoded.tensors}
            proposals, refine = self.propose(encoded), functools.partial(self.refine, encoded)
            cases.append(make_case(self.stages, encoded.run, view, tensors, proposals, refine))
        return cases

    def stages_in(self, precision: str) -> Mapping[str, Stage]:
        """Return the stages of a copy of a float32 network, brought to a precision."""
        network = copy.deepcopy(self.network)
        PRECISIONS[precision](network)
        return masa_stages(network, self.model)


_LOADED = ('model', 'weights', 'device', 'precision')
"""Options that are read when a network is loaded."""


def _check_size(model: ModelConfig, config: DetectorConfig) -> None:
    """Raise ConfigError for an input size that the model does not take."""
    if model.fixed_size and config.input_size not in (0, model.input_size):
        raise ConfigError(
            f'input_size is {config.input_size}; {model.name} takes only {model.input_size}'
        )


def _choose(own: float, chosen: float) -> float:
    return own if chosen < 0 else chosen


def _scale(view: View) -> Tensor:
    """Network pixels per image pixel, for boxes."""
    return torch.tensor([*view.scale, *view.scale], dtype=torch.float32)
