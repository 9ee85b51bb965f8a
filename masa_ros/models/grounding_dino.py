# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Grounding DINO (Liu et al. 2024) behind a backbone, by the library transformers.

The weights are those inside ``gdino_masa.pth``. The maps of the backbone come from outside, so
that one pass of it serves detection and appearance.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    SwinConfig,
)
from transformers.models.grounding_dino import modeling_grounding_dino as library

from masa_ros.models.checkpoints import fill

_CLAMP = 1e-3
"""References keep this distance from 0 and 1. The library takes 1e-5, which the weights have never
seen: boxes at the edge of the image move by it."""


@dataclasses.dataclass(frozen=True)
class GroundingSizes:
    """Sizes behind the backbone; the defaults are those of the published weights.

    Attributes
    ----------
    channels: of the maps of the backbone, each twice that of the one before.
    width, hidden, layers: channels, hidden channels and layers of encoder and decoder.
    queries: boxes that it answers with.
    text_width, text_hidden, text_layers, text_heads, vocabulary: of the text encoder, BERT.

    """

    channels: tuple[int, ...] = (256, 512, 1024)
    width: int = 256
    hidden: int = 2048
    layers: int = 6
    queries: int = 900
    text_width: int = 768
    text_hidden: int = 3072
    text_layers: int = 12
    text_heads: int = 12
    vocabulary: int = 30522


class Grounded(NamedTuple):
    """What is seen by every query.

    Attributes
    ----------
    logits: (Q, T) float32, of every token of the caption.
    boxes: (Q, 4) float32, centre x y, width, height as shares of the image without padding.

    """

    logits: Tensor
    boxes: Tensor


class GroundingDino(nn.Module):
    """Maps of a backbone and the tokens of a caption in, boxes and their tokens out."""

    def __init__(self, sizes: GroundingSizes | None = None) -> None:
        super().__init__()
        sizes = sizes or GroundingSizes()
        config = _configuration(sizes)
        self.network: Any = GroundingDinoForObjectDetection(config)
        model = self.network.model
        self._maps = _Handed()
        model.backbone.conv_encoder.model = self._maps
        model.decoder = _Decoder(config)
        model.decoder.refine = [self.network.bbox_embed]  # in a list: it is held once
        model.text_backbone = _Remembering(model.text_backbone)
        self.eval()

    def read(self, tensors: dict[str, Tensor], text: str) -> None:
        """Take published tensors; ``text`` begins the WeightsError where they do not fit."""
        fill(self.network, translate(tensors), text)

    def forward(
        self, maps: Sequence[Tensor], shape: tuple[int, int], padded: tuple[int, int], ids: Tensor
    ) -> Grounded:
        """Find what a caption names in one image.

        Parameters
        ----------
        maps: (1, C_l, H_l, W_l) float32, of strides 8, 16, 32.
        shape, padded: (rows, columns) of the image and of the network input.
        ids: (T,) int64 tokens.

        """
        self._maps.maps = list(maps)
        mask = torch.zeros((1, *padded), dtype=torch.long, device=maps[0].device)
        mask[:, : shape[0], : shape[1]] = 1
        found = self.network(
            pixel_values=maps[0].new_zeros(()).expand(1, 3, *padded),  # only its shape is read
            pixel_mask=mask,
            input_ids=ids[None],
            attention_mask=torch.ones_like(ids[None]),
            token_type_ids=torch.zeros_like(ids[None]),
        )
        self._maps.maps = []
        return Grounded(found.logits[0, :, : len(ids)], found.pred_boxes[0])


def _configuration(sizes: GroundingSizes) -> Any:
    # The backbone is made only to be replaced: as small as the library allows.
    backbone = SwinConfig(
        embed_dim=sizes.channels[0] // 2,
        depths=[1] * 4,
        num_heads=[1] * 4,
        out_features=['stage2', 'stage3', 'stage4'],
    )
    text = BertConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.text_width,
        intermediate_size=sizes.text_hidden,
        num_hidden_layers=sizes.text_layers,
        num_attention_heads=sizes.text_heads,
    )
    return GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        d_model=sizes.width,
        num_queries=sizes.queries,
        encoder_layers=sizes.layers,
        decoder_layers=sizes.layers,
        encoder_ffn_dim=sizes.hidden,
        decoder_ffn_dim=sizes.hidden,
        decoder_bbox_embed_share=False,
        two_stage_bbox_embed_share=False,
    )


class _Handed(nn.Module):
    """Stands where the library has a backbone."""

    maps: list[Tensor]

    def forward(self, images: Tensor, **options: Any) -> Any:
        return SimpleNamespace(feature_maps=self.maps)


class _Remembering(nn.Module):
    """A text encoder that reads a caption once, and again when another one has come."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self._last: tuple[list[int], Any] | None = None

    def forward(self, ids: Tensor, *arguments: Any, **options: Any) -> Any:
        asked = ids.flatten().tolist()
        if self._last is None or self._last[0] != asked:
            self._last = asked, self.encoder(ids, *arguments, **options)
        return self._last[1]


_READ = (
    'spatial_shapes',
    'spatial_shapes_list',
    'level_start_index',
    'vision_encoder_hidden_states',
    'vision_encoder_attention_mask',
    'text_encoder_hidden_states',
)
"""What the layers of the decoder are given as it comes."""


class _Decoder(library.GroundingDinoDecoder):
    """The library's decoder with the clamp that the weights were trained with."""

    refine: list[nn.ModuleList]

    def forward(
        self,
        inputs_embeds: Tensor,
        reference_points: Tensor,
        valid_ratios: Tensor,
        text_encoder_attention_mask: Tensor | None = None,
        **given: Any,
    ) -> Any:
        """Refine queries (1, Q, C) and their boxes (1, Q, 4) layer by layer."""
        hidden, reference = inputs_embeds, reference_points
        read = {name: given[name] for name in _READ}
        outputs, references = [], []
        for layer, head in zip(self.layers, self.refine[0]):
            scaled = reference[:, :, None] * torch.cat((valid_ratios, valid_ratios), -1)[:, None]
            hidden = layer(
                hidden_states=hidden,
                position_embeddings=self.reference_points_head(
                    _waves(scaled[:, :, 0], self.config.d_model // 2)
                ),
                reference_points=scaled,
                text_encoder_attention_mask=None,  # there is one caption: nothing is padded
                **read,
            )[0]
            reference = (head(hidden) + torch.special.logit(reference, eps=_CLAMP)).sigmoid()
            outputs.append(self.layer_norm(hidden))
            references.append(reference)
        return library.GroundingDinoDecoderOutput(
            last_hidden_state=outputs[-1],
            intermediate_hidden_states=torch.stack(outputs, 1),
            intermediate_reference_points=torch.stack(references, 1),
        )


def _waves(boxes: Tensor, channels: int) -> Tensor:
    """Positions of boxes (..., 4) cx cy w h as sines (..., 4 * channels), y before x."""
    exponent = torch.arange(channels, device=boxes.device).div(2, rounding_mode='floor')
    phase = boxes[..., None] * (2 * math.pi) / 10000 ** (2 * exponent / channels)
    waves = torch.stack((phase[..., 0::2].sin(), phase[..., 1::2].cos()), -1).flatten(-2)
    return waves[..., [1, 0, 2, 3], :].flatten(-2)


def _halved(name: str) -> str:
    """Give the layers of a box head their numbers: the published one counts activations too."""
    return re.sub(
        r'(_embed(?:\.\d)?)\.(\d)\.', lambda m: f'{m[1]}.layers.{int(m[2]) // 2}.', name, count=1
    )


_RULES = [
    (r'^detector\.', 'model.'),
    (r'\.neck\.convs\.(\d)\.', r'.input_proj_vision.\1.'),
    (r'\.neck\.extra_convs\.0\.', '.input_proj_vision.3.'),
    (r'(input_proj_vision\.\d)\.conv\.', r'\1.0.'),
    (r'(input_proj_vision\.\d)\.gn\.', r'\1.1.'),
    (r'\.bbox_head\.reg_branches\.6\.', '.encoder_output_bbox_embed.'),
    (r'^model\.bbox_head\.reg_branches\.', 'bbox_embed.'),
    (r'\.encoder\.layers\.(\d)\.(?=self_attn|ffn|norms)', r'.encoder.layers.\1.deformable_layer.'),
    (r'\.encoder\.text_layers\.(\d)\.', r'.encoder.layers.\1.text_enhancer_layer.'),
    (r'\.encoder\.fusion_layers\.(\d)\.', r'.encoder.layers.\1.fusion_layer.'),
    (r'(deformable_layer|decoder\.layers\.\d)\.norms\.0\.', r'\1.self_attn_layer_norm.'),
    (r'deformable_layer\.norms\.1\.', 'deformable_layer.final_layer_norm.'),
    (r'text_enhancer_layer\.norms\.0\.', 'text_enhancer_layer.layer_norm_before.'),
    (r'text_enhancer_layer\.norms\.1\.', 'text_enhancer_layer.layer_norm_after.'),
    (r'\.norms\.1\.', '.encoder_attn_text_layer_norm.'),
    (r'\.norms\.2\.', '.encoder_attn_layer_norm.'),
    (r'\.norms\.3\.', '.final_layer_norm.'),
    (r'\.cross_attn_text\.', '.encoder_attn_text.'),
    (r'\.cross_attn\.', '.encoder_attn.'),
    (r'(self_attn|encoder_attn_text)\.attn\.', r'\1.'),
    (r'\.ffn\.layers\.0\.0\.', '.fc1.'),
    (r'\.ffn\.layers\.1\.', '.fc2.'),
    (r'\.gamma_v$', '.vision_param'),
    (r'\.gamma_l$', '.text_param'),
    (r'\.layer_norm_v\.', '.layer_norm_vision.'),
    (r'\.layer_norm_l\.', '.layer_norm_text.'),
    (r'\.(values_|out_|)v_proj\.', r'.\1vision_proj.'),
    (r'\.(values_|out_|)l_proj\.', r'.\1text_proj.'),
    (r'\.decoder\.ref_point_head\.', '.decoder.reference_points_head.'),
    (r'\.decoder\.norm\.', '.decoder.layer_norm.'),
    (r'\.query_embedding\.', '.query_position_embeddings.'),
    (r'\.memory_trans_fc\.', '.enc_output.'),
    (r'\.memory_trans_norm\.', '.enc_output_norm.'),
    (r'\.language_model\.language_backbone\.body\.model\.', '.text_backbone.encoder.'),
    (r'\.text_feat_map\.', '.text_projection.'),
]
# Of the parts named so the detector reads nothing.
_UNREAD = re.compile(
    r'^(?!detector\.)|^detector\.(backbone|dn_query_generator)\.|\.pooler\.|\.position_ids$'
)


def translate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the published tensors behind the backbone the names of ``GroundingDino.network``."""
    translated = {}
    for name, value in tensors.items():
        if _UNREAD.search(name):
            continue
        for pattern, replacement in _RULES:
            name = re.sub(pattern, replacement, name)
        if 'bbox_embed' in name:
            name = _halved(name)
        if '.in_proj_' in name:
            stem, kind = name.split('in_proj_')
            for part, values in zip(('query', 'key', 'value'), value.chunk(3)):
                translated[f'{stem}{part}.{kind}'] = values
        else:
            translated[name] = value
    return translated
