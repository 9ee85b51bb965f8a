"""A loaded model: RGB image in, untracked instances out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from numpy.typing import NDArray
from torch import Tensor

from masa_ros.errors import ConfigError, ImageError, WeightsError
from masa_ros.models import checkpoints
from masa_ros.models.heads import clip_boxes, decode_boxes, select_proposals
from masa_ros.models.network import Features, MasaNetwork
from masa_ros.models.zoo import ModelConfig, model_config
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


def normalise(images: Tensor) -> Tensor:
    """RGB 0..255 (B, 3, H, W), any dtype -> float32 network input, channels last."""
    mean = torch.tensor(MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=images.device).view(1, 3, 1, 1)
    normalised = (images.float() - mean) / std
    return normalised.contiguous(memory_format=torch.channels_last)


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
        path = Path(config.weights) if config.weights else model.shipped_weights
        if path is None:
            raise WeightsError(
                f'no weights are shipped for {model.name}: give the path of a file as weights'
            )
        network = MasaNetwork(model.network)
        checkpoints.load(network, path, model.name)
        detector = cls(model, network, config, str(device))
        detector.weights = f'{path.name} sha256:{checkpoints.fingerprint(path)[:12]}'
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

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8]) -> Instances:
        """Find instances in an (H, W, 3) uint8 RGB image.

        Raises
        ------
        ImageError
            When the array is not such an image.

        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ImageError(f'expected (H, W, 3) uint8 pixels, got {image.shape} {image.dtype}')
        tensor, shape = self.preprocess(image)
        features = self.network(tensor)
        boxes, scores, pooled = self._detect(features, shape)
        height, width = image.shape[:2]
        scale = boxes.new_tensor([width / shape[1], height / shape[0]] * 2)
        index = torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
        embeddings = self.network.embed(pooled).float()
        masks: tuple[Mask | None, ...] | None = None
        original = (boxes * scale).cpu().numpy()
        if self.model.network.detail and self.config.masks:
            logits = self.network.mask_logits(features, pooled, boxes, index)
            masks = paste_masks(logits.float().cpu().numpy(), original, height, width)
        return Instances(
            boxes=original,
            scores=scores.cpu().numpy(),
            labels=np.full(len(boxes), -1, np.int32),
            embeddings=embeddings.cpu().numpy(),
            masks=masks,
        )

    def preprocess(self, image: NDArray[np.uint8]) -> tuple[Tensor, tuple[int, int]]:
        """Resize to the network's long side, normalise, pad right and bottom with zeros.

        Returns
        -------
        (1, 3, H, W) network input, and (height, width) of the image in it without padding.

        """
        long_side = self.config.input_size or self.model.input_size
        height, width = image.shape[:2]
        scale = long_side / max(height, width)
        rows, columns = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        # torch refuses negative strides and warns of read-only memory; all else is not copied.
        if not image.flags.writeable or min(image.strides) < 0:
            image = image.copy()
        tensor = torch.from_numpy(image).to(self.device).permute(2, 0, 1)[None]
        if not self.model.antialias or tensor.is_cuda:
            tensor = tensor.float()  # bytes are resized as they are only with antialias on a CPU
        tensor = F.interpolate(
            tensor,
            (rows, columns),
            mode='bilinear',
            align_corners=False,
            antialias=self.model.antialias,
        )
        step = self.model.pad_multiple
        padded = F.pad(normalise(tensor), (0, -columns % step, 0, -rows % step))
        return padded.half() if self.half else padded, (rows, columns)

    def _detect(self, features: Features, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes (N, 4) in network pixels, scores (N,), features (N, C, 7, 7) of them."""
        network, model, config = self.network, self.model, self.config
        logits, deltas = network.proposals(features.levels)
        candidates, score, level = network.proposals.candidates(logits, deltas, model.candidates)
        proposals, _ = select_proposals(
            candidates[0], score[0], level, shape, model.proposal_nms_iou, model.proposals
        )

        def pool(boxes: Tensor) -> Tensor:
            image = torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
            return network.pool(features.levels, boxes, image)

        cls, reg = network.boxes(pool(proposals))
        scores = cls.float().softmax(1)[:, 0]
        boxes = clip_boxes(decode_boxes(proposals, reg, network.boxes.STDS), *shape)

        def choose(own: float, chosen: float | None) -> float:
            return own if chosen is None else chosen

        large = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)
        kept = large & (scores > choose(model.score_threshold, config.score_threshold))
        boxes, scores = boxes[kept], scores[kept]
        limit = int(choose(model.max_instances, config.max_instances))
        best = torchvision.ops.nms(boxes, scores, choose(model.nms_iou, config.nms_iou))[:limit]
        return boxes[best], scores[best], pool(boxes[best])


def paste_masks(
    logits: NDArray[np.float32], boxes: NDArray[np.float32], height: int, width: int
) -> tuple[Mask | None, ...]:
    """Bring (N, S, S) mask logits of boxes (N, 4) to the pixels of an image.

    Returns
    -------
    N masks whose window is the box, rounded outwards to whole pixels and clipped to the image;
    None where no pixel belongs to the object.

    """
    masks: list[Mask | None] = []
    size = logits.shape[-1]
    for logit, (x0, y0, x1, y1) in zip(logits, boxes):
        left, top = max(0, int(np.floor(x0))), max(0, int(np.floor(y0)))
        right, bottom = min(width, int(np.ceil(x1))), min(height, int(np.ceil(y1)))
        # Cell s of the logits covers box pixels [s, s + 1) * side / S; sample pixel centres.
        scale_x, scale_y = size / max(x1 - x0, 1e-3), size / max(y1 - y0, 1e-3)
        transform = np.array(
            [
                [scale_x, 0, (left + 0.5 - x0) * scale_x - 0.5],
                [0, scale_y, (top + 0.5 - y0) * scale_y - 0.5],
            ]
        )
        pixels = cv2.warpAffine(
            logit,
            transform,
            (right - left, bottom - top),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        inside = pixels > 0
        masks.append(Mask(left, top, inside) if inside.any() else None)
    return tuple(masks)
