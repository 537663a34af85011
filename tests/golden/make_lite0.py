"""Writes lite0_coffee.json: the first features of each tap for scikit-image's coffee picture.

Run `python tests/golden/make_lite0.py` in the repository root, and only when the frozen map was
changed on purpose. Made with torch 2.14.1, timm 1.0.31 and Pillow 13.0.0 on x86-64.
"""

from __future__ import annotations

import json
from itertools import accumulate
from pathlib import Path

import torch
from PIL import Image
from skimage import data

from edgecl.backbones import load_backbone


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(float(v), 5) for v in values]


def main() -> None:
    backbone = load_backbone(image_size=224)
    x = backbone.preprocessing.tensor(Image.fromarray(data.coffee()))
    feature = backbone.forward_features(torch.from_numpy(x)[None])[0]
    golden = {
        "weights_sha256": backbone.weights_sha256,
        "num_features": backbone.num_features,
        "taps": list(backbone.taps),
        "stages": list(backbone.stages),
        # Of every block: mean and maximum of the stages 2, 3 and 4, and the head's features.
        "values": {
            str(i): _rounded(feature[i : i + 8])
            for i in accumulate(backbone.stages[:-1], initial=0)
        },
        "norm": round(float(feature.norm()), 4),
    }
    path = Path(__file__).with_name("lite0_coffee.json")
    path.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
