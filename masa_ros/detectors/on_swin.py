# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the detectors have in common that read the maps of a Swin backbone, and words."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn

from masa_ros.detectors.masa import Encoded, MasaDetector
from masa_ros.detectors.protocol import check_images
from masa_ros.errors import WeightsError
from masa_ros.models import official
from masa_ros.models.checkpoints import fill
from masa_ros.models.configs import ModelConfig, SwinConfig
from masa_ros.models.devices import choose_device
from masa_ros.models.files import MODEL_FILES, fingerprint, locate
from masa_ros.models.masa_stages import SHARED_MAPS
from masa_ros.models.masks import View
from masa_ros.models.preprocess import fitted_to, padded_input
from masa_ros.models.swin import Swin
from masa_ros.models.zoo import model_config
from masa_ros.types import Frame, Instances

if TYPE_CHECKING:
    from typing_extensions import Self  # typing.Self is of Python 3.11


class SwinDetector(abc.ABC):
    """Finds what words name, from the maps of a backbone; see ``Detector`` and ``Companion``.

    Parameters
    ----------
    model: whose rules the input of the network follows.
    network: what reads the maps.
    backbone: its own, or the network that embeds, whose backbone it reads.
    device: where both run.
    input_size: long side of the input, pixels; 0: the model's own.

    Attributes
    ----------
    published: model in whose published file the network is.
    class_names: of the labels that were given so far.
    shares: whether it reads the maps of a network that embeds.
    weights: name and check sum of the file that it was read from.

    """

    takes_words = True
    published: str
    class_names: Mapping[int, str]

    def __init__(
        self,
        model: ModelConfig,
        network: nn.Module,
        backbone: Swin | MasaDetector,
        device: str,
        input_size: int = 0,
    ) -> None:
        self.model, self.device, self.input_size = model, device, input_size
        self.network = network.eval().to(device)
        self.backbone = backbone
        self.shares = isinstance(backbone, MasaDetector)
        if isinstance(backbone, Swin):
            backbone.eval().to(device)
        self.weights = 'random'

    @classmethod
    def load(cls, config: Any, device: str) -> Self:
        """Build the network, its backbone too, and read the weights.

        Raises
        ------
        ConfigError
            When the device, or what words need, is not there.
        WeightsError
            When a file is missing or does not fit.

        """
        return cls._load(config, str(choose_device(device)), None)

    @classmethod
    def beside(cls, config: Any, network: MasaDetector) -> Self | None:
        """Build it on the backbone of a network that embeds; None where that is another one."""
        if not same_file(model_config(cls.published), config.weights, network):
            return None
        if config.input_size not in (0, network.config.input_size):
            return None
        config = dataclasses.replace(config, weights=network.config.weights)
        return cls._load(config, network.device, network)

    @classmethod
    @abc.abstractmethod
    def _load(cls, config: Any, device: str, eye: MasaDetector | None) -> Self:
        """Build it, on the backbone of another network or on its own."""

    @abc.abstractmethod
    def ask(self, words: Sequence[str]) -> Any:
        """Make of words what the network compares with; raises ConfigError where that fails."""

    def check_words(self, words: Sequence[str]) -> None:
        """Raise ConfigError for words that cannot be asked for; see ``Detector``."""
        self.ask(words)

    @abc.abstractmethod
    def look(self, maps: Sequence[Tensor], view: View, words: Sequence[str]) -> Instances:
        """Return what the words name, of maps (1, C_l, H_l, W_l) float32 of one image."""

    @torch.inference_mode()
    def detect(self, frames: Sequence[Frame], words: Sequence[str] = ()) -> list[Instances]:
        """Find what the words name, one frame after the other; see ``Detector``.

        Raises
        ------
        ConfigError
            When there are no words, or too many.

        """
        found = []
        for frame in frames:
            check_images([frame.image])
            found.append(self.look(*self._seen(frame), words))
        return found

    def _seen(self, frame: Frame) -> tuple[Sequence[Tensor], View]:
        """Return the maps of a frame, and how it lies in the input of the network."""
        if isinstance(self.backbone, MasaDetector):
            (encoded,) = self.backbone.encode([frame.image])
            return shared_maps(encoded), encoded.view
        height, width = frame.shape
        rows, columns = fitted_to(self.model, self.input_size, height, width)
        tensor = padded_input(
            frame.image, (rows, columns), self.model.pad_multiple, False, self.device
        )
        return self.backbone(tensor).maps, View(height, width, rows, columns)

    @torch.inference_mode()
    def find(self, encoded: Sequence[Encoded], words: Sequence[str] = ()) -> list[Instances]:
        """Do the same with what the backbone of the network that embeds made of the frames."""
        return [self.look(shared_maps(each), each.view, words) for each in encoded]

    def padded(self, view: View) -> tuple[int, int]:
        """(H, W) of the network input."""
        step = self.model.pad_multiple
        return view.rows + -view.rows % step, view.columns + -view.columns % step

    def facts(self) -> Mapping[str, Any]:
        """Return what was loaded: model, weights, parameters, device."""
        parts: list[nn.Module] = [self.network]
        if isinstance(self.backbone, Swin):
            parts.append(self.backbone)
        return {
            'model': type(self).__name__,
            'weights': self.weights,
            'parameters': sum(p.numel() for part in parts for p in part.parameters()),
            'device': self.device,
        }


def shared_maps(encoded: Encoded) -> list[Tensor]:
    """Return the maps of the backbone of a network that embeds."""
    return [encoded.tensors[name].float() for name in SHARED_MAPS]


def best(
    boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, nms_iou: float, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what is over a threshold, without double boxes of whatever label, best first."""
    over = scores > threshold
    boxes, scores, labels = boxes[over], scores[over], labels[over]
    kept = torchvision.ops.nms(boxes, scores, nms_iou)[:most]
    return boxes[kept], scores[kept], labels[kept]


def in_image(boxes: Tensor, view: View) -> NDArray[np.float32]:
    """Bring boxes (N, 4) in network pixels to pixels of the image."""
    x, y = view.scale
    return (boxes.cpu() / torch.tensor([x, y, x, y])).numpy()


def weights_path(model: ModelConfig, weights: str) -> Path:
    """Return a file that is named, else the one published for a model; raises WeightsError."""
    return Path(weights) if weights else locate(MODEL_FILES[model.name])


def same_file(model: ModelConfig, weights: str, network: MasaDetector) -> bool:
    """Tell whether a detector and a network that embeds are read from one file."""
    return network.model.name == model.name and weights in ('', network.config.weights)


def own_backbone(model: ModelConfig, tensors: dict[str, Tensor], path: Path) -> Swin:
    """Make the backbone of a published file; raises WeightsError where the file has another."""
    config = model.network.backbone
    assert isinstance(config, SwinConfig)
    named = official.translate(model, tensors)
    backbone = Swin(config)
    own = {
        name.removeprefix('backbone.'): value
        for name, value in named.items()
        if name.startswith('backbone.')
    }
    fill(backbone, own, f'{path} does not hold the backbone of {model.name}')
    return backbone


def read_published(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a published file; raises WeightsError, also where no detector is in."""
    if path.suffix == '.safetensors':
        raise WeightsError(f'{path} has no detector in it; name the published file')
    return official.read(path)


def told(path: Path) -> str:
    """Return name and check sum of a file."""
    return f'{path.name} sha256:{fingerprint(path)[:12]}'
