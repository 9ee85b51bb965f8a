"""A loaded model: RGB image in, untracked instances out."""

from __future__ import annotations

import dataclasses
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

from masa_ros.errors import ConfigError, ImageError
from masa_ros.models import checkpoints
from masa_ros.models.configs import ModelConfig
from masa_ros.models.files import MODEL_FILES, fingerprint, locate
from masa_ros.models.heads import clip_boxes, select_proposals
from masa_ros.models.masks import Placed, View, distinct
from masa_ros.models.network import MasaNetwork
from masa_ros.models.precision import PRECISIONS, storage
from masa_ros.models.stages import AT_ONCE, Eager, Run, stages_of
from masa_ros.models.upload import to_device
from masa_ros.models.zoo import model_config
from masa_ros.types import Instances

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
    precision: 'auto', 'fp32', 'fp16' or 'mixed', see ``masa_ros.models.precision``.
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


class Detector:
    """Segment everything in single images. Holds no state between images.

    Attributes
    ----------
    device: where it runs, for example 'cpu' or 'cuda:0'.
    stages: the pieces of the network as modules, by name.
    engines: what runs them for a network input of (height, width); sizes that are not in it are
        run eagerly.

    """

    def __init__(
        self, model: ModelConfig, network: MasaNetwork, config: DetectorConfig, device: str
    ) -> None:
        self.model = model
        self.config = config
        self.device = device
        self.weights = 'random'
        self.precision = config.precision
        if config.precision == 'auto':
            self.precision = 'fp16' if device.startswith('cuda') else 'fp32'
        self.network = network.eval().to(device).to(memory_format=torch.channels_last)
        PRECISIONS[self.precision](self.network)
        self.stages = stages_of(self.network, model)
        dtype = storage(self.precision)
        self.eager = {name: Eager(stage, dtype) for name, stage in self.stages.items()}
        self.engines: dict[tuple[int, int], Mapping[str, Run]] = {}

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
        if config.precision not in ('auto', *PRECISIONS):
            choices = ', '.join(('auto', *PRECISIONS))
            raise ConfigError(f"precision is '{config.precision}'; it must be one of: {choices}")
        if config.precision in ('fp16', 'mixed') and device.type == 'cpu':
            raise ConfigError(
                f'precision {config.precision} needs a CUDA device; on the CPU take fp32 or auto'
            )
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
            'precision': self.precision,
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
        encoded = self.encode([image])[0]
        return self.find(encoded) if given is None else self.complete(encoded, given)

    @torch.inference_mode()
    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[Encoded]:
        """Run the image part of the network on (H, W, 3) uint8 RGB images.

        Eagerly they are one batch; engines take one after the other.

        Raises
        ------
        ImageError
            When an array is not such an image, or the images have not all one size.

        """
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
                raise ImageError(
                    f'expected (H, W, 3) uint8 pixels, got {image.shape} {image.dtype}'
                )
            if image.shape != images[0].shape:
                raise ImageError(f'a batch of images {image.shape} and {images[0].shape}')
        tensors, views = zip(*(self.preprocess(image) for image in images))
        return self.encode_tensor(_joined(tensors), views[0])

    def encode_tensor(self, tensor: Tensor, view: View) -> list[Encoded]:
        """Do the same with what ``preprocess`` made: (B, 3, H, W), all of one view."""
        run = self.engines.get((tensor.shape[2], tensor.shape[3]), self.eager)
        if run is not self.eager:  # engines are built for one image
            return [Encoded(run['image'](images=image), view, run) for image in tensor.split(1)]
        made = run['image'](images=tensor)
        return [
            Encoded({name: value[i : i + 1] for name, value in made.items()}, view, run)
            for i in range(len(tensor))
        ]

    @torch.inference_mode()
    def find(self, encoded: Encoded) -> Instances:
        """Return everything in the image, best score first."""
        boxes, scores = self.refine(encoded, self.propose(encoded))
        found, masks = self._instances(encoded, boxes, scores), None
        pooled, embeddings = self.look(encoded, boxes)
        if self._draws_masks:
            placed = self._masks(encoded, boxes, pooled, found.boxes)
            masks = tuple(placed.masks)
            limit = _choose(self.model.mask_share, self.config.mask_share)
            if limit < 1:
                kept = distinct(placed.covers, limit)
                found, embeddings = found[kept], embeddings[kept]
                masks = tuple(masks[i] for i in kept)
        return dataclasses.replace(found, embeddings=embeddings, masks=masks)

    @torch.inference_mode()
    def complete(self, encoded: Encoded, given: Instances) -> Instances:
        """Give embeddings and masks to detections of somebody else.

        They come back all and in their order, with masks where the model draws them and they had
        none ("detect and track anything", paper section 3.2.3).
        """
        boxes = self._scaled(given.boxes, encoded.view)
        pooled, embeddings = self.look(encoded, boxes)
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
        refined, scores = self.judge(encoded, asked)
        pooled, embeddings = self.look(encoded, refined)
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
        self, encoded: Encoded, boxes: Tensor, pooled: Tensor, placed: NDArray[np.float32]
    ) -> Placed:
        """Masks of boxes in network pixels, which are ``placed`` in the image."""
        rows = {'pooled': pooled} if 'pooled' in self.stages['masks'].inputs else {}
        (logits,) = self._per_box('masks', encoded, boxes, **rows)
        found: Placed = self.network.masks.place(logits, placed, encoded.view)
        return found

    def _per_box(
        self, name: str, encoded: Encoded, boxes: Tensor, **others: Tensor
    ) -> tuple[Tensor, ...]:
        """Run a stage on any number of boxes, as many at once as it takes."""
        stage = self.stages[name]
        tensors = {key: encoded.tensors[key] for key in stage.inputs if key in encoded.tensors}
        most = AT_ONCE[name]
        parts = []
        # Without boxes the stage runs on one that is thrown away: it knows the shapes.
        rows = {'boxes': boxes, **others}
        if not len(boxes):
            rows = {key: value.new_zeros((1, *value.shape[1:])) for key, value in rows.items()}
        for start in range(0, len(rows['boxes']), most):
            some = {key: value[start : start + most] for key, value in rows.items()}
            parts.append(encoded.run[name](**some, **tensors))
        return tuple(_joined([part[key] for part in parts])[: len(boxes)] for key in stage.outputs)

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
        model = self.model
        height, width = image.shape[:2]
        long_side = self.config.input_size or model.input_size
        short_side = model.short_side * long_side // model.input_size
        rows, columns = fitted_size(height, width, long_side, short_side or long_side)
        tensor = resize(image, (rows, columns), model.antialias, self.device)
        step = model.pad_multiple
        padded = F.pad(normalise(tensor), (0, -columns % step, 0, -rows % step))
        view = View(height, width, rows, columns)
        return padded, view

    def propose(self, encoded: Encoded) -> Tensor:
        """Return the best boxes (N, 4) of the proposal head in network pixels."""
        model, view, tensors = self.model, encoded.view, encoded.tensors
        levels = [tensors[key] for key in self.stages['image'].levels]
        return select_proposals(
            tensors['candidates'][0],
            tensors['logits'][0],
            self.network.proposals.candidate_levels(levels, model.candidates),
            (view.rows, view.columns),
            model.proposal_nms_iou,
            model.proposals,
        )[0]

    def refine(self, encoded: Encoded, proposals: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the box head keeps of proposals (N, 4): boxes (M, 4), scores (M,)."""
        model, config = self.model, self.config
        boxes, scores = self.judge(encoded, proposals)
        large = ((boxes[:, 2:] - boxes[:, :2]) >= model.min_side).all(1)
        kept = large & (scores > _choose(model.score_threshold, config.score_threshold))
        boxes, scores = boxes[kept], scores[kept]
        limit = int(_choose(model.max_instances, config.max_instances))
        best = torchvision.ops.nms(boxes, scores, _choose(model.nms_iou, config.nms_iou))[:limit]
        return boxes[best], scores[best]

    def judge(self, encoded: Encoded, proposals: Tensor) -> tuple[Tensor, Tensor]:
        """Run the box head: (N, 4) -> better boxes (N, 4) inside the image, scores (N,)."""
        boxes, scores = self._per_box('boxes', encoded, proposals)
        return clip_boxes(boxes, encoded.view.rows, encoded.view.columns), scores

    def look(self, encoded: Encoded, boxes: Tensor) -> tuple[Tensor, NDArray[np.float32]]:
        """Features (N, C, 7, 7) and embeddings (N, E) of boxes (N, 4) in network pixels."""
        pooled, embeddings = self._per_box('looks', encoded, boxes)
        return pooled, np.asarray(embeddings.cpu().numpy())


def _choose(own: float, chosen: float | None) -> float:
    return own if chosen is None else chosen


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Put tensors behind one another; one alone, the common case, is not copied."""
    return torch.cat(tuple(parts)) if len(parts) > 1 else parts[0]


def _scale(view: View) -> Tensor:
    """Network pixels per image pixel, for boxes."""
    return torch.tensor([*view.scale, *view.scale], dtype=torch.float32)
