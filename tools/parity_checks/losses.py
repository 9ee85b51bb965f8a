# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The released training losses and their gradients."""

from __future__ import annotations

import torch

from masa_ros.models.heads import EmbeddingHead
from masa_ros.training import losses
from parity_checks.report import Fixtures, Report


def compare_losses(report: Report, fixtures: Fixtures) -> None:
    """Compare the released training losses and their gradients."""
    print('-- losses')
    terms = fixtures.arrays('loss_terms.npz')
    for case in sorted({key.split('.')[0] for key in terms}):
        positive = torch.from_numpy(terms[f'{case}.label']) == 1
        for name, given, loss, weight in (
            ('unbiased_contrast', 'pred', losses.released_contrast_loss, 0.25),
            ('margin_l2', 'cos', losses.released_margin_loss, 1.0),
        ):
            values = torch.from_numpy(terms[f'{case}.{given}']).requires_grad_()
            result = weight * loss(values, positive)
            key = f'{case}.{name}'
            report.close(key, result.detach(), terms[key], 1e-5, relative=True)
            if f'{key}_grad' in terms:
                (gradient,) = torch.autograd.grad(result, values)
                report.close(f'{key}_grad', gradient, terms[f'{key}_grad'], 1e-5, relative=True)
    arrays = fixtures.arrays('embed_head_loss.npz')
    head = EmbeddingHead(32, 4, 8, 64, 32, 0.0)
    weights = fixtures.tensors(arrays['names'], 'losses.embed_head.')
    names = {'.gn.': '.norm.', 'fc_embed.': 'embed.'}
    for old, new in names.items():
        weights = {key.replace(old, new): value for key, value in weights.items()}
    head.load_state_dict(weights)
    sides = []
    for side in ('key', 'ref'):
        with torch.inference_mode():
            ours = head(torch.from_numpy(arrays[f'{side}_roi_feats']))
        report.close(f'{side}_embeds', ours, arrays[f'{side}_embeds'], 1e-5, True)
        # The losses from the stored ones, so that their gradients are judged alone; in float64,
        # because the reference's own rounding takes most of the tolerance.
        sides.append(torch.from_numpy(arrays[f'{side}_embeds']).double().requires_grad_())
    contrast, margin, start = [], [], [0, 0]
    images = sum(key.endswith('.num_key') for key in arrays)
    for i in range(images):
        counts = [int(arrays[f'img{i}.num_{side}']) for side in ('key', 'ref')]
        ours, theirs = (s[a : a + n] for s, a, n in zip(sides, start, counts))
        start = [a + n for a, n in zip(start, counts)]
        positive = torch.from_numpy(arrays[f'img{i}.target']) == 1
        contrast.append(0.25 * losses.released_contrast_loss(ours @ theirs.T, positive))
        cosines = torch.nn.functional.normalize(ours) @ torch.nn.functional.normalize(theirs).T
        margin.append(losses.released_margin_loss(cosines, positive))
    both = torch.stack(contrast).mean(), torch.stack(margin).mean()
    gradients = torch.autograd.grad(both[0] + both[1], sides)
    for side, gradient in zip(('key', 'ref'), gradients):
        report.close(f'{side}_embeds_grad', gradient, arrays[f'{side}_embeds_grad'], 1e-5, True)
    for name, value in zip(('loss_track', 'loss_track_aux'), both):
        report.close(name, value.detach(), arrays[name], 1e-5, relative=True)
