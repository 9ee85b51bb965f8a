"""A loaded model: RGB image in, untracked instances out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from numpy.typing import NDArray
from torch import Tensor

from masa_ros.errors import ConfigError, ImageError
from masa_ros.models import checkpoints
from masa_ros.models.configs import ModelConfig
from masa_ros.models.files import MODEL_FILES, fingerprint, locate
from masa_ros.models.heads import clip_boxes, decode_boxes, select_proposals
from masa_ros.models.masks import View, distinct
from masa_ros.models.network import Features, MasaNetwork
from masa_ros.models.zoo import model_config
from masa_ros.types import Instances, Mask

# ImageNet statistics of 0..255 RGB, as in the released models.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


@dataclasses.dataclass(frozen=True)
class DetectorConfig:
    """Options of a detector; None leaves the model's own value.

    Attributes
    ----------
    model: name in the zoo.
    weights: path of a weights file; '' takes the one the zoo knows.
    device: 'auto', 'cpu', 'cuda' or 'cuda:N'.
    precision: 'auto', 'fp32' or 'fp16'.
    input_size: long side of the network input in pixels, 0 for the model's own.
    score_threshold: instances below it are not returned; 0..1.
    nms_iou: of two boxes that overlap more, the better scored stays; 0..1.
    mask_share: of two masks the smaller of which lies in the other by more than this share, the
        better scored one stays; 0..1.
    max_instances: at most that many, the best scored.
    masks: predict masks.

    """

    model: str = 'masa_nano'
    weights: str = ''
    device: str = 'auto'
    precision: str = 'auto'
    input_size: int = 0
    score_threshold: float | None = None
    nms_iou: float | None = None
    mask_share: float | None = None
    max_instances: int | None = None
    masks: bool = True


def choose_device(name: str) -> torch.device:
    """Resolve 'auto', 'cpu', 'cuda', 'cuda:N'; raises ConfigError for what is not there."""
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device('meta')
    if device.type not in ('cpu', 'cuda'):
        raise ConfigError(f"device is '{name}'; it must be auto, cpu, cuda or cuda:N")
    if device.type == 'cuda':
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ConfigError(f"device is '{name}', but torch sees {count} CUDA devices")
    return device


def fitted_size(height: int, width: int, long_side: int, short_side: int) -> tuple[int, int]:
    """(rows, columns) of an image scaled to fit both sides, its proportions kept."""
    scale = min(long_side / max(height, width), short_side / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(
    image: NDArray[np.generic], size: tuple[int, int], antialias: bool, device: str
) -> Tensor:
    """Bilinear (h, w, 3) -> (1, 3, *size) on the device.

    Official models were trained on what OpenCV makes of floats, without antialias; on a CPU they
    get exactly that. torch rounds the positions otherwise, by some 1e-5 pixels.
    """
    rows, columns = size
    if device == 'cpu' and not antialias:
        pixels = cv2.resize(image.astype(np.float32), (columns, rows))
        return torch.from_numpy(pixels).permute(2, 0, 1)[None]
    # torch refuses negative strides and warns of read-only memory; all else is not copied.
    if not image.flags.writeable or min(image.strides) < 0:
        image = image.copy()
    tensor = torch.from_numpy(image).to(device).permute(2, 0, 1)[None]
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
    """What the network's image part made of one image."""

    features: Features
    view: View


class Detector:
    """Segment everything in single images. Holds no state between images.

    Attributes
    ----------
    device: where it runs, for example 'cpu' or 'cuda:0'.

    """

    def __init__(
        self, model: ModelConfig, network: MasaNetwork, config: DetectorConfig, device: str
    ) -> None:
        self.model = model
        self.config = config
        self.device = device
        self.weights = 'random'
        self.half = config.precision == 'fp16' or (
            config.precision == 'auto' and device.startswith('cuda')
        )
        self.network = network.eval().to(device).to(memory_format=torch.channels_last)
        if self.half:
            self.network = self.network.half()

    @classmethod
    def load(cls, config: DetectorConfig) -> Detector:
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
        if config.precision not in ('auto', 'fp32', 'fp16'):
            raise ConfigError(f"precision is '{config.precision}'; it must be auto, fp32 or fp16")
        if config.precision == 'fp16' and device.type == 'cpu':
            raise ConfigError('precision fp16 needs a CUDA device; on the CPU take fp32 or auto')
        if model.fixed_size and config.input_size not in (0, model.input_size):
            raise ConfigError(
                f'input_size is {config.input_size}; {model.name} takes only {model.input_size}'
            )
        path = Path(config.weights) if config.weights else model.shipped_weights
        path = path or locate(MODEL_FILES[model.name])
        network = MasaNetwork(model.network)
        checkpoints.load(network, path, model)
        detector = cls(model, network, config, str(device))
        detector.weights = f'{path.name} sha256:{fingerprint(path)[:12]}'
        return detector

    def describe(self) -> dict[str, Any]:
        """Return what was loaded: model, weights, parameters, device, precision."""
        return {
            'model': self.model.name,
            'weights': self.weights,
            'parameters': sum(p.numel() for p in self.network.parameters()),
            'device': self.device,
            'precision': 'fp16' if self.half else 'fp32',
        }

    def configure(self, config: DetectorConfig) -> None:
        """Take new thresholds; model, weights, device and precision stay as they were loaded."""
        self.config = config

    def __call__(self, image: NDArray[np.uint8], given: Instances | None = None) -> Instances:
        """Find instances in an (H, W, 3) uint8 RGB image, or describe those that are given.

        Raises
        ------
        ImageError
            When the array is not such an image.

        """
        encoded = self.encode(image)
        return self.find(encoded) if given is None else self.complete(encoded, given)

    @torch.inference_mode()
    def encode(self, image: NDArray[np.uint8]) -> Encoded:
        """Run the image part of the network on an (H, W, 3) uint8 RGB image.

        Raises
        ------
        ImageError
            When the array is not such an image.

        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ImageError(f'expected (H, W, 3) uint8 pixels, got {image.shape} {image.dtype}')
        tensor, view = self.preprocess(image)
        return Encoded(self.features(tensor), view)

    @torch.inference_mode()
    def find(self, encoded: Encoded) -> Instances:
        """Return everything in the image, best score first."""
        features, view = encoded
        boxes, scores, pooled = self.detect(features, view)
        found, masks = self._instances(encoded, boxes, scores), None
        if self._draws_masks:
            masks = self._masks(encoded, boxes, pooled, found.boxes)
            limit = _choose(self.model.mask_share, self.config.mask_share)
            if limit < 1:
                kept = distinct(masks, view.height, view.width, limit)
                found, pooled = found[kept], pooled[torch.from_numpy(kept)]
                masks = tuple(masks[i] for i in kept)
        return dataclasses.replace(found, embeddings=self._embed(pooled), masks=masks)

    @torch.inference_mode()
    def complete(self, encoded: Encoded, given: Instances) -> Instances:
        """Give embeddings and masks to detections of somebody else.

        They come back all and in their order, with masks where the model draws them and they had
        none ("detect and track anything", paper section 3.2.3).
        """
        boxes = self._scaled(given.boxes, encoded.view)
        pooled = self.pool(encoded.features, boxes)
        masks = given.masks
        if masks is None and self._draws_masks:
            masks = self._masks(encoded, boxes, pooled, given.boxes)
        return dataclasses.replace(given, embeddings=self._embed(pooled), masks=masks)

    @torch.inference_mode()
    def probe(self, encoded: Encoded, boxes: NDArray[np.float32]) -> Instances:
        """Return the object that the box head sees at each of the boxes (N, 4), in their order.

        The boxes, pixels of the image, take the place of proposals, so that an object which the
        proposals missed is found by whoever knows where to look.
        """
        features, view = encoded
        asked = clip_boxes(self._scaled(boxes, view), view.rows, view.columns)
        refined, scores = self.head(features, view, asked)
        pooled = self.pool(features, refined)
        there, masks = self._instances(encoded, refined, scores), None
        if self._draws_masks:
            masks = self._masks(encoded, refined, pooled, there.boxes)
        return dataclasses.replace(there, embeddings=self._embed(pooled), masks=masks)

    def _scaled(self, boxes: NDArray[np.float32], view: View) -> Tensor:
        """Bring boxes (N, 4) from pixels of the image to network pixels."""
        scaled = torch.from_numpy(np.ascontiguousarray(boxes)) * _scale(view)
        return scaled.to(self.device)

    @property
    def _draws_masks(self) -> bool:
        return self.network.masks is not None and self.config.masks

    def _masks(
        self, encoded: Encoded, boxes: Tensor, pooled: Tensor, placed: NDArray[np.float32]
    ) -> tuple[Mask | None, ...]:
        """Masks of boxes in network pixels, which are ``placed`` in the image."""
        head = self.network.masks
        logits = head(encoded.features.detail, pooled, boxes, _first_image(boxes))
        return tuple(head.place(logits, placed, encoded.view))

    def _embed(self, pooled: Tensor) -> NDArray[np.float32]:
        return np.asarray(self.network.embed(pooled).float().cpu().numpy())

    def _instances(self, encoded: Encoded, boxes: Tensor, scores: Tensor) -> Instances:
        """Instances without masks and embeddings from boxes in network pixels."""
        return Instances(
            boxes=(boxes.cpu() / _scale(encoded.view)).numpy(),
            scores=scores.cpu().numpy(),
            labels=np.full(len(boxes), -1, np.int32),
            embeddings=np.zeros((len(boxes), 0), np.float32),
        )

    def preprocess(self, image: NDArray[np.uint8]) -> tuple[Tensor, View]:
        """Resize to the network's input size, normalise, pad right and bottom with zeros.

        Returns
        -------
        (1, 3, H, W) network input, and how the image lies in it.

        """
        model = self.model
        height, width = image.shape[:2]
        long_side = self.config.input_size or model.input_size
        short_side = model.short_side * long_side // model.input_size
        rows, columns = fitted_size(height, width, long_side, short_side or long_side)
        tensor = resize(image, (rows, columns), model.antialias, self.device)
        step = model.pad_multiple
        padded = F.pad(normalise(tensor), (0, -columns % step, 0, -rows % step))
        view = View(height, width, rows, columns)
        return padded.half() if self.half else padded, view

    def features(self, tensor: Tensor) -> Features:
        """Image part of the network: (1, 3, H, W) from ``preprocess`` -> features."""
        return self.network(tensor)

    def pool(self, features: Features, boxes: Tensor) -> Tensor:
        """Features (N, C, 7, 7) of boxes (N, 4) in network pixels."""
        return self.network.pool(features.levels, boxes, _first_image(boxes))

    def detect(self, features: Features, view: View) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes (N, 4) in network pixels, scores (N,), features (N, C, 7, 7) of them."""
        boxes, scores = self.refine(features, view, self.propose(features, view))
        return boxes, scores, self.pool(features, boxes)

    def propose(self, features: Features, view: View) -> Tensor:
        """Return the best boxes (N, 4) of the proposal head in network pixels."""
        head, model = self.network.proposals, self.model
        logits, deltas = head(features.levels)
        candidates, score, level = head.candidates(logits, deltas, model.candidates)
        shape = (view.rows, view.columns)
        return select_proposals(
            candidates[0], score[0], level, shape, model.proposal_nms_iou, model.proposals
        )[0]

    def refine(self, features: Features, view: View, proposals: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the box head keeps of proposals (N, 4): boxes (M, 4), scores (M,)."""
        model, config = self.model, self.config
        boxes, scores = self.head(features, view, proposals)
        large = ((boxes[:, 2:] - boxes[:, :2]) >= model.min_side).all(1)
        kept = large & (scores > _choose(model.score_threshold, config.score_threshold))
        boxes, scores = boxes[kept], scores[kept]
        limit = int(_choose(model.max_instances, config.max_instances))
        best = torchvision.ops.nms(boxes, scores, _choose(model.nms_iou, config.nms_iou))[:limit]
        return boxes[best], scores[best]

    def head(self, features: Features, view: View, proposals: Tensor) -> tuple[Tensor, Tensor]:
        """Run the box head: (N, 4) -> better boxes (N, 4) inside the image, scores (N,)."""
        cls, reg = self.network.boxes(self.pool(features, proposals))
        boxes = decode_boxes(proposals, reg, self.network.boxes.STDS)
        return clip_boxes(boxes, view.rows, view.columns), cls.float().softmax(1)[:, 0]


def _choose(own: float, chosen: float | None) -> float:
    return own if chosen is None else chosen


def _scale(view: View) -> Tensor:
    """Network pixels per image pixel, for boxes."""
    return torch.tensor([*view.scale, *view.scale], dtype=torch.float32)


def _first_image(boxes: Tensor) -> Tensor:
    """Index of the image of each box in a batch of one."""
    return torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
