"""CPU seconds of the scores at the end of short fits, by the size of the images.

    OMP_NUM_THREADS=1 python benchmarks/scoring.py

Random images of four classes, two steps of batches of 8: the fit, then probes and bound, figures, and the map.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np

from pp_simve import fit
from pp_simve.commands import run_fit
from pp_simve.report import outcome

SIZES = ((64, 24), (64, 4000), (96, 24), (96, 2000), (224, 24), (224, 600))
"""Pixels a side, and images."""
PARTS = {
    (run_fit, "_fit"): "fit",
    (outcome, "run_results"): "scores",
    (outcome, "run_figures"): "figures",
    (outcome, "embed_test"): "map",
}
"""Functions of a module, and what they compute."""

spent: dict[str, float] = {}


def timed(call: Callable[..., Any], name: str) -> Callable[..., Any]:
    @wraps(call)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        started = time.process_time()
        found = call(*arguments, **options)
        found = list(found) if name == "figures" else found
        spent[name] = time.process_time() - started
        return found

    return wrapped


if __name__ == "__main__":
    for (module, function), name in PARTS.items():
        setattr(module, function, timed(getattr(module, function), name))
    print("| pixels | images |", " | ".join(f"{name}, s" for name in PARTS.values()), "|")
    for side, images in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "images.npz"
            labels = np.arange(images) % 4
            pixels = np.random.default_rng(0).integers(0, 256, (images, side, side, 3), dtype=np.uint8)
            pixels[..., 0] //= (labels[:, None, None] + 1).astype(np.uint8)
            np.savez(path, images=pixels, labels=labels)
            flags = ("--data", f"npz:{path}", "--steps", "2", "--batch-size", "8", "--out", f"{folder}/run", "--quiet")
            if fit.main(flags):
                raise SystemExit(1)
        print(f"| {side} | {images:,} |", " | ".join(f"{spent[name]:.1f}" for name in PARTS.values()), "|", flush=True)
