# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""SAM (Kirillov et al. 2023) as MASA uses it: one encoder pass feeds tracking and masks.

Encoder and parameters are those of the segment_anything package; the mask decoder's arithmetic is
rearranged here, because MASA prompts it with every box of every frame.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.image_encoder import Attention as EncoderAttention
from segment_anything.modeling.image_encoder import (
    Block,
    get_rel_pos,
    window_partition,
    window_unpartition,
)
from segment_anything.modeling.transformer import Attention, TwoWayTransformer
from torch import Tensor, nn

from masa_ros.models.configs import SamConfig, SamDecoderConfig
from masa_ros.models.forms import portable, static
from masa_ros.models.layers import BackboneMaps, FeaturePyramid
from masa_ros.models.masks import Pasted, View, frame_logits, paste_frames
from masa_ros.types import Mask

_PATCH = 16
_BOXES_AT_ONCE = 16  # bounds the decoder's memory: 20 MB a box in fp32
_BIAS_VALUES = 1 << 24  # bounds the encoder's: the positions' share of the attention logits


class FusedAttention(EncoderAttention):
    """The encoder's attention with relative positions, through torch's fused kernel.

    Same parameters and result; the logits of all pairs, 800 MB in a global block of ViT-B, are
    never in memory at once.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> the same."""
        batch, height, width, channels = x.shape
        heads, tokens = self.num_heads, height * width
        qkv = self.qkv(x).view(batch, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        grid = query.unflatten(2, (height, width))
        by_row = get_rel_pos(height, height, self.rel_pos_h)
        by_column = get_rel_pos(width, width, self.rel_pos_w)
        rows = torch.einsum('bnhwc,hkc->bnhwk', grid, by_row).contiguous()
        columns = torch.einsum('bnhwc,wkc->bnhwk', grid, by_column).contiguous()
        if portable():
            logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
            logits = logits.view(batch, heads, tokens, height, width)
            logits = logits + rows.flatten(2, 3)[..., None] + columns.flatten(2, 3)[..., None, :]
            parts = [logits.flatten(3).softmax(-1) @ value]
        else:
            parts = self._fused(query, key, value, rows, columns)
        seen = torch.cat(parts, 1).transpose(1, 2).reshape(batch, height, width, channels)
        return self.proj(seen)

    @staticmethod
    def _fused(
        query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor
    ) -> list[Tensor]:
        """Attend a few heads at a time."""
        batch, heads, tokens = query.shape[:3]
        parts = []
        few = max(1, _BIAS_VALUES // (batch * tokens * tokens))
        for first in range(0, heads, few):
            some = slice(first, first + few)
            bias = rows[:, some, ..., None] + columns[:, some, ..., None, :]
            bias = bias.view(batch, -1, tokens, tokens)
            parts.append(
                F.scaled_dot_product_attention(
                    query[:, some], key[:, some], value[:, some], attn_mask=bias
                )
            )
        return parts


class SamEncoder(ImageEncoderViT):
    """SAM's image encoder that also gives the outputs of some of its blocks."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__(
            img_size=config.image_size,
            patch_size=_PATCH,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            out_chans=config.embedding,
            use_rel_pos=True,
            window_size=config.window,
            global_attn_indexes=config.global_blocks,
            norm_layer=lambda width: nn.LayerNorm(width, eps=1e-6),
        )
        self.taps = config.taps
        side = config.image_size // _PATCH
        for i, block in enumerate(self.blocks):
            size = side if i in config.global_blocks else config.window
            block.attn = FusedAttention(
                config.width, config.heads, use_rel_pos=True, input_size=(size, size)
            )

    def forward(self, x: Tensor) -> BackboneMaps:
        """(B, 3, S, S) -> taps (B, C, S / 16, S / 16), ``detail`` the image embedding."""
        x = self.patch_embed(x)
        grid = x.shape[1], x.shape[2]
        # As rows of tokens: OpenVINO (2026.4) takes the axes of maps for those of a convolution,
        # and turns them around for every norm, which was a third of the time of the encoder.
        tokens = x.flatten(1, 2) + self.pos_embed.flatten(1, 2)
        maps = []
        for i, block in enumerate(self.blocks):
            tokens = _run_block(block, tokens, grid)
            if i in self.taps:
                maps.append(tokens.transpose(1, 2).unflatten(2, grid))
        return BackboneMaps(maps, self.neck(tokens.transpose(1, 2).unflatten(2, grid)))


def _run_block(block: Block, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Run a block of the encoder on tokens (B, h w, C) of a grid (h, w)."""
    x = block.norm1(tokens).unflatten(1, grid)
    if block.window_size > 0:
        windows, padded = window_partition(x, block.window_size)
        x = window_unpartition(block.attn(windows), block.window_size, padded, grid)
    else:
        x = block.attn(x)
    tokens = tokens + x.flatten(1, 2)
    out: Tensor = tokens + block.mlp(block.norm2(tokens))
    return out


class SimplePyramid(nn.Module):
    """Feature pyramid from maps of one size (Li et al. 2022, "plain backbones").

    Four maps of stride 16 become strides 4, 8, 16 and 32 before they are merged top-down.
    """

    def __init__(self, width: int, channels: int, levels: int) -> None:
        super().__init__()
        self.up4 = nn.Sequential(
            nn.ConvTranspose2d(width, width, 2, stride=2),
            LayerNorm2d(width),
            nn.GELU(),
            nn.ConvTranspose2d(width, width, 2, stride=2),
        )
        self.up2 = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.merge = FeaturePyramid((width,) * 4, channels, levels, norm=False)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Four maps (B, C, h, w) -> ``levels`` maps, finest first."""
        fine, middle, same, coarse = maps
        return self.merge([self.up4(fine), self.up2(middle), same, F.max_pool2d(coarse, 2)])


class AsItIs(nn.Module):
    """Masks are drawn from the image embedding (B, 256, S / 16, S / 16) as it is."""

    def forward(self, levels: list[Tensor], embedding: Tensor) -> Tensor:
        """Return the embedding."""
        return embedding


class SamMasks(nn.Module):
    """SAM's prompt encoder and mask decoder, prompted by boxes, or by a user (``answer``).

    Same parameters, same result as segment_anything's, for about half the arithmetic: the
    embedding is shared by all boxes until the first layer changes it, projections of the image
    side are folded into the few prompt tokens, and upscaling runs on rows of channels.
    """

    reads_pooled = False
    takes_prompts = True

    def __init__(self, config: SamDecoderConfig) -> None:
        super().__init__()
        side = config.image_size // _PATCH
        self.prompt_encoder = PromptEncoder(
            embed_dim=config.embedding,
            image_embedding_size=(side, side),
            input_image_size=(config.image_size, config.image_size),
            mask_in_chans=16,
        )
        self.mask_decoder = MaskDecoder(
            transformer_dim=config.embedding,
            iou_head_hidden_dim=config.embedding,
            transformer=TwoWayTransformer(
                2, config.embedding, config.decoder_heads, config.decoder_width
            ),
        )
        self.mask_decoder.weights_are_read = True  # by ``decode``, see ``precision.mix``

    @property
    def detail_map(self) -> AsItIs:
        """What makes the map that masks are drawn from: the image embedding as it is."""
        return AsItIs()

    @property
    def drawing(self) -> SamMasks:
        """What draws masks."""
        return self

    def forward(
        self, embedding: Tensor, pooled: Tensor | None, boxes: Tensor, image: Tensor
    ) -> Tensor:
        """Draw the mask of every box.

        Parameters
        ----------
        embedding: (B, 256, S / 16, S / 16) of the images.
        pooled: not used; masks inside boxes are drawn from it.
        boxes: (N, 4) float32 xyxy in network-input pixels.
        image: (N,) int64 index of each box's image in the batch.

        Returns
        -------
        (N, S / 4, S / 4) logits over the whole network input, padding included.

        """
        if not static() and len(boxes) > _BOXES_AT_ONCE:
            few = zip(boxes.split(_BOXES_AT_ONCE), image.split(_BOXES_AT_ONCE))
            return torch.cat([self(embedding, pooled, *some) for some in few])
        if embedding.shape[0] > 1:
            embedding = embedding[image]
        dense = self.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1)
        sparse = self._corners(boxes).to(embedding.dtype)
        return self.decode(embedding, sparse, dense)[0][:, 0]

    def _corners(self, boxes: Tensor) -> Tensor:
        """Tokens (N, 2, C) of the two corners of boxes (N, 4)."""
        prompts = self.prompt_encoder
        corners = ((boxes + 0.5) / prompts.input_image_size[0]).view(-1, 2, 2)
        kinds = torch.cat([prompts.point_embeddings[i].weight for i in (2, 3)])
        return prompts.pe_layer._pe_encoding(corners) + kinds.float()

    def answer(
        self,
        embedding: Tensor,
        points: Tensor,
        positive: Tensor,
        box: Tensor | None = None,
        mask: Tensor | None = None,
        multiple: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Draw what a user may mean, as ``SamPredictor`` does.

        Parameters
        ----------
        embedding: (1, C, h, w) of the image.
        points: (P, 2) float32 clicks, x y in network-input pixels; P may be 0.
        positive: (P,) bool, False where a click is beside what is meant.
        box: (4,) float32 xyxy in network-input pixels, or None.
        mask: (4 h, 4 w) float32 logits of an earlier answer, or None.
        multiple: the whole, a part and a part of that, for what may mean any of them.

        Returns
        -------
        (M, 4 h, 4 w) logits over the whole network input and (M,) float32 predicted IoU; M is 3
        with ``multiple``, else 1.

        """
        prompts, dtype = self.prompt_encoder, embedding.dtype
        if mask is not None:
            mask = mask[None, None].to(prompts.mask_downscaling[0].weight.dtype)
        sparse, dense = prompts(
            points=(points[None], positive[None].int()) if len(points) else None,
            boxes=None if box is None else box[None],
            masks=mask,
        )
        logits, quality = self.decode(embedding, sparse.to(dtype), dense.to(dtype), multiple)
        return logits[0], quality[0].float()

    def paste(self, logits: Tensor, boxes: NDArray[np.float32], view: View) -> Pasted:
        """Bring logits to the pixels of the image; see ``masks.paste_frames``."""
        return paste_frames(logits, self.prompt_encoder.input_image_size[0], view)

    def logits_of(self, mask: Mask, view: View) -> Tensor:
        """Return a mask as ``answer`` takes it; see ``masks.frame_logits``."""
        return frame_logits(mask, self.prompt_encoder.input_image_size[0], view)

    def decode(
        self, embedding: Tensor, sparse: Tensor, dense: Tensor, multiple: bool = False
    ) -> tuple[Tensor, Tensor]:
        """SAM's mask decoder.

        Parameters
        ----------
        embedding: (1 or N, C, h, w); 1 is shared by all prompts.
        sparse: (N, T, C) tokens of points and corners.
        dense: (1 or N, C, 1 or h, 1 or w) embedding of a mask prompt or of none.
        multiple: the three masks for ambiguous prompts instead of the one.

        Returns
        -------
        (N, 1 or 3, 4 h, 4 w) logits and (N, 1 or 3) predicted IoU.

        """
        decoder, transformer = self.mask_decoder, self.mask_decoder.transformer
        height, width = embedding.shape[-2:]
        # Rows of channels: (P, C) as long as one image serves all prompts, (N, P, C) afterwards.
        image = (embedding + dense).flatten(2).transpose(1, 2)
        if image.shape[0] == 1:
            # TensorRT-RTX 1.6 does not build the product of a batch with one matrix.
            image = image.expand(sparse.shape[0], -1, -1) if portable() else image[0]
        position = self.prompt_encoder.get_dense_pe().to(image.dtype)[0].flatten(1).T
        own = torch.cat((decoder.iou_token.weight, decoder.mask_tokens.weight))
        prompt = torch.cat((own.expand(sparse.shape[0], -1, -1), sparse), 1)

        tokens = prompt
        for layer in transformer.layers:
            if layer.skip_first_layer_pe:
                tokens = layer.self_attn(tokens, tokens, tokens)
            else:
                query = tokens + prompt
                tokens = tokens + layer.self_attn(query, query, tokens)
            tokens = layer.norm1(tokens)
            placed = image + position
            seen = _read_image(layer.cross_attn_token_to_image, tokens + prompt, placed, image)
            tokens = layer.norm2(tokens + seen)
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            told = _write_image(layer.cross_attn_image_to_token, placed, tokens + prompt, tokens)
            image = layer.norm4(image + told)
        final = transformer.final_attn_token_to_image
        seen = _read_image(final, tokens + prompt, image + position, image)
        tokens = transformer.norm_final_attn(tokens + seen)

        chosen = slice(1, None) if multiple else slice(0, 1)
        heads = list(decoder.output_hypernetworks_mlps)[chosen]
        answers = tokens[:, 1 : 1 + decoder.num_mask_tokens][:, chosen]
        kernels = torch.stack([head(answers[:, i]) for i, head in enumerate(heads)], 1)
        logits = self._upscale(image, kernels, height, width)
        return logits, decoder.iou_prediction_head(tokens[:, 0])[:, chosen]

    def _upscale(self, image: Tensor, kernels: Tensor, height: int, width: int) -> Tensor:
        """(N, h w, C) image tokens, (N, M, c) kernels -> logits (N, M, 4 h, 4 w).

        A transposed convolution whose kernel is its stride is a matrix product that turns each
        row of channels into four rows.
        """
        first, norm, activation, second, _ = self.mask_decoder.output_upscaling
        x = _split_rows(image, first)  # (N, 4 P, c)
        # In float32 whatever the precision: squares overflow in half, see ``precision.halve``.
        scale, shift = norm.weight.float(), norm.bias.float()
        normed = F.layer_norm(x.float(), x.shape[-1:], scale, shift, norm.eps)
        x = activation(normed.to(x.dtype))
        x = activation(_split_rows(x, second))
        logits = _products(kernels, x)
        logits = logits.view(*logits.shape[:2], height, width, 2, 2, 2, 2)
        # Row: cell, then the two splits; column likewise.
        logits = logits.permute(0, 1, 2, 4, 6, 3, 5, 7)
        return logits.reshape(*logits.shape[:2], 4 * height, 4 * width)


def _split_rows(x: Tensor, layer: nn.ConvTranspose2d) -> Tensor:
    """(N, R, C) -> (N, 4 R, c): a 2x2 transposed convolution of stride 2 of single cells.

    A cell becomes four: upper left and right, lower left and right.
    """
    kernel = layer.weight.permute(2, 3, 1, 0).flatten(0, 2)
    assert layer.bias is not None
    rows = F.linear(x, kernel, layer.bias.repeat(4))
    return rows.unflatten(2, (4, -1)).flatten(1, 2)


def _per_head(weight: Tensor, heads: int) -> Tensor:
    """(H d, C) -> (H, d, C)."""
    return weight.unflatten(0, (heads, -1))


def _read_image(attention: Attention, tokens: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of few tokens over many image positions.

    ``q . (W k)`` is ``(W^T q) . k`` and a mean of ``W v`` is W times the mean of v: with few
    tokens it is cheaper to project these. The bias of the keys adds the same to all logits of a
    token and drops out of the softmax.

    Parameters
    ----------
    tokens: (N, T, C) queries.
    keys, values: (P, C) or (N, P, C).

    """
    heads = attention.num_heads
    query = attention.q_proj(tokens).unflatten(2, (heads, -1))
    query = query * query.shape[-1] ** -0.5
    query = torch.einsum('nthd,hdc->nhtc', query, _per_head(attention.k_proj.weight, heads))
    shape = query.shape
    query = query.flatten(1, 2)
    seen = _sums(_products(query, keys).softmax(-1), values)
    value = _per_head(attention.v_proj.weight, heads)
    out = torch.einsum('nhtc,hdc->nthd', seen.view(shape), value).flatten(2)
    return attention.out_proj(out + attention.v_proj.bias)


def _write_image(attention: Attention, queries: Tensor, tokens: Tensor, values: Tensor) -> Tensor:
    """Attention of many image positions over few tokens, folded as in ``_read_image``.

    Parameters
    ----------
    queries: (P, C) or (N, P, C) image positions.
    tokens, values: (N, T, C).

    Returns
    -------
    (N, P, C)

    """
    heads = attention.num_heads
    key = attention.k_proj(tokens).unflatten(2, (heads, -1))
    key = key * key.shape[-1] ** -0.5
    bias = torch.einsum('nthd,hd->nht', key, attention.q_proj.bias.unflatten(0, (heads, -1)))
    key = torch.einsum('nthd,hdc->nhtc', key, _per_head(attention.q_proj.weight, heads))
    shape = key.shape
    logits = _products(key.flatten(1, 2), queries)
    weight = (logits.view(*shape[:3], -1) + bias[..., None]).softmax(2).flatten(1, 2)
    value = attention.v_proj(values).unflatten(2, (heads, -1))
    out = attention.out_proj.weight.unflatten(1, (heads, -1))
    value = torch.einsum('nthd,chd->nhtc', value, out).flatten(1, 2)
    return torch.bmm(weight.transpose(1, 2), value) + attention.out_proj.bias


def _products(rows: Tensor, image: Tensor) -> Tensor:
    """Return the products (N, R, P) of rows (N, R, C) and all positions (P, C) or (N, P, C).

    ``@`` would be exported with copies of both, as it may have to make a batch of one matrix.
    """
    return rows @ image.T if image.dim() == 2 else torch.bmm(rows, image.transpose(1, 2))


def _sums(weights: Tensor, image: Tensor) -> Tensor:
    """Return the sums (N, R, C) of positions (P, C) or (N, P, C), weighted (N, R, P)."""
    return weights @ image if image.dim() == 2 else torch.bmm(weights, image)
