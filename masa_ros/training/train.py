"""The training loop: scenes in, weights out."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from masa_ros.models import checkpoints
from masa_ros.models.detector import normalise
from masa_ros.models.network import MasaNetwork
from masa_ros.models.zoo import model_config
from masa_ros.training.data import Source
from masa_ros.training.losses import LossConfig, Target, objective
from masa_ros.training.views import Sample


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes
    ----------
    model: name in the zoo.
    output: folder for weights, checkpoint and metrics.
    steps: length of the run; the learning rate falls to zero over them.
    minutes: stop earlier when that much time has passed, 0 for no limit. The learning rate then
        follows the time instead of the steps.
    pairs: scenes per step; each gives two views.
    learning_rate, weight_decay: of AdamW.
    warmup: steps over which the learning rate rises.
    clip: largest norm of the gradient.
    ema: decay of the averaged weights, which are the ones that are saved.
    workers: processes that make scenes.
    save_every: steps between two saves.
    seed: of the initial weights.
    resume: go on from the checkpoint in ``output``.

    """

    model: str
    output: Path
    steps: int = 4000
    minutes: float = 0.0
    pairs: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    warmup: int = 100
    clip: float = 10.0
    ema: float = 0.998
    workers: int = 1
    save_every: int = 200
    seed: int = 0
    resume: bool = False
    losses: LossConfig = dataclasses.field(default_factory=LossConfig)


class _Endless(Dataset[Sample]):
    """Samples by running number, so that a resumed run goes on with new ones."""

    def __init__(self, source: Source, start: int, count: int) -> None:
        self.source, self.start, self.count = source, start, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return self.source.sample(self.start + index)


def to_batch(samples: list[Sample]) -> tuple[Tensor, list[Target]]:
    """First views of all samples, then their second views, as ``losses.objective`` takes them."""
    images = torch.cat([torch.stack([s.images[view] for s in samples]) for view in (0, 1)])
    targets = [
        Target(s.boxes[view], s.masks[view], s.ids[view], s.ignore[view])
        for view in (0, 1)
        for s in samples
    ]
    return images, targets


def _same(samples: list[Sample]) -> list[Sample]:
    return samples


@torch.no_grad()
def _average(average: MasaNetwork, network: MasaNetwork, decay: float) -> None:
    for mean, value in zip(average.state_dict().values(), network.state_dict().values()):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def train(config: TrainConfig, source: Source) -> Path:
    """Train, writing metrics.csv, checkpoint.pt and <model>.safetensors to the output folder.

    Returns
    -------
    Path of the weights.

    """
    torch.manual_seed(config.seed)
    model = model_config(config.model)
    network = MasaNetwork(model.network).to(memory_format=torch.channels_last).train()
    average = MasaNetwork(model.network).eval()
    average.load_state_dict(network.state_dict())
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [
            {'params': decayed, 'weight_decay': config.weight_decay},
            {'params': others, 'weight_decay': 0.0},
        ],
        lr=config.learning_rate,
    )
    config.output.mkdir(parents=True, exist_ok=True)
    checkpoint = config.output / 'checkpoint.pt'
    weights = config.output / f'{config.model}.safetensors'
    first, spent = 0, 0.0
    if config.resume and checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state['network'])
        average.load_state_dict(state['average'])
        optimiser.load_state_dict(state['optimiser'])
        first, spent = state['step'], state['seconds']

    loader = DataLoader(
        _Endless(source, first * config.pairs, (config.steps - first) * config.pairs),
        batch_size=config.pairs,
        num_workers=config.workers,
        collate_fn=_same,
        prefetch_factor=4 if config.workers else None,
    )

    def save(step: int, seconds: float) -> None:
        state = {
            'network': network.state_dict(),
            'average': average.state_dict(),
            'optimiser': optimiser.state_dict(),
            'step': step,
            'seconds': seconds,
        }
        temporary = checkpoint.with_suffix('.tmp')
        torch.save(state, temporary)
        temporary.replace(checkpoint)
        described = dataclasses.asdict(config) | {'output': config.output.name}
        metadata = {
            'model': config.model,
            'steps': str(step),
            'images': str(2 * step * config.pairs),
            'minutes': f'{seconds / 60:.1f}',
            'config': json.dumps(described),
        }
        checkpoints.save(average, weights, metadata)

    begin = time.perf_counter() - spent
    step = first
    with (config.output / 'metrics.csv').open('a', newline='') as file:
        writer = csv.writer(file)
        bar = tqdm(loader, total=config.steps, initial=first, unit='step', dynamic_ncols=True)
        for samples in bar:
            seconds = time.perf_counter() - begin
            progress = step / config.steps
            if config.minutes:
                progress = max(progress, seconds / 60 / config.minutes)
            if progress >= 1:
                break
            rate = 0.5 * (1 + math.cos(math.pi * progress)) * min(1, (step + 1) / config.warmup)
            for group in optimiser.param_groups:
                group['lr'] = config.learning_rate * rate
            images, targets = to_batch(samples)
            with torch.autocast('cpu', dtype=torch.bfloat16):
                losses = objective(network, normalise(images), targets, config.losses)
            total = sum(losses.values(), start=torch.zeros(()))
            optimiser.zero_grad(set_to_none=True)
            total.backward()
            norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
            if not bool(norm.isfinite()):
                raise FloatingPointError(f'step {step}: the gradient is not finite')
            optimiser.step()
            step += 1
            # The average must not remember the random start: its memory grows with the run.
            _average(average, network, min(config.ema, step / (step + 10)))
            values = {name: float(value.detach()) for name, value in losses.items()}
            if step == first + 1 and first == 0:
                writer.writerow(['step', 'seconds', 'total', *values])
            row = [float(total.detach()), *values.values()]
            writer.writerow([step, f'{seconds:.1f}', *(f'{value:.4f}' for value in row)])
            if step % 20 == 0:
                bar.set_postfix({'loss': f'{row[0]:.2f}'})
                file.flush()
            if step % config.save_every == 0:
                save(step, seconds)
    save(step, time.perf_counter() - begin)
    return weights
