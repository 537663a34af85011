"""Train a small vision transformer for some minutes: one with learned weights for adapters.

No pretrained transformer ships with a package that can be installed, so vit_tiny_patch16_224 at 64
pixels is trained on Fashion-MNIST, 1,200 pictures a class with mirror images and shifts. Its
weights are then a backbone for digits, which it never saw:

    python benchmarks/vit.py vit.safetensors
    python benchmarks/consolidation.py --data digits --backbone vit_tiny_patch16_224 \
        --weights vit.safetensors --size 64 [--recipe mos]
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time

import fashion_data
import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

NAME, SIZE = "vit_tiny_patch16_224", 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", help="where the weights go, .safetensors")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--kept", type=int, default=1200, help="pictures a class")
    options = parser.parse_args()
    import timm

    torch.manual_seed(0)
    model = timm.create_model(NAME, num_classes=10, img_size=SIZE)
    x, y = _pictures("train", options.kept)
    tx, ty = _pictures("t10k", 200)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.05)
    n_steps = options.epochs * (len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=n_steps)
    begin = time.perf_counter()
    for epoch in range(options.epochs):
        model.train()
        order = torch.randperm(len(x))
        for start in range(0, len(x) - 63, 64):
            rows = order[start : start + 64]
            batch = x[rows]
            if torch.rand(()) < 0.5:
                batch = batch.flip(3)
            shift = torch.randint(-4, 5, (2,)).tolist()
            batch = torch.roll(batch, shift, (2, 3))
            optimiser.zero_grad()
            F.cross_entropy(model(batch), y[rows], label_smoothing=0.1).backward()
            optimiser.step()
            schedule.step()
        model.eval()
        with torch.inference_mode():
            right = torch.cat([model(part).argmax(1) for part in tx.split(100)]) == ty
        seconds = time.perf_counter() - begin
        print(f"epoch {epoch + 1}: {right.float().mean():.4f} of its own classes, {seconds:.0f} s")
    save_file(model.state_dict(), options.output)


def _pictures(part: str, per_class: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pictures (N, 3, S, S) in -1 to 1 and labels."""
    x, y = fashion_data.load(part)
    rows = fashion_data.class_by_class(y, per_class, np.arange(10))
    grey = torch.from_numpy(x[rows].astype(np.float32) / 127.5 - 1)[:, None]
    large = F.interpolate(grey, size=(SIZE, SIZE), mode="bicubic", antialias=True)
    return large.expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(y[rows].astype(np.int64))


if __name__ == "__main__":
    main()
