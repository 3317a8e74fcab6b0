"""Content and style at the backbone and in z: VAE, SimVE, contrastive methods and the balanced bridge, side by side.

    python benchmarks/content_and_style.py fashionmnist --root DIR --seeds 0 1 2     # DIR/FashionMNIST/raw/*
    python benchmarks/content_and_style.py cifar10 --root DIR --seeds 0 1 2          # DIR/cifar10/{train,test}/CLASS/*
    python benchmarks/content_and_style.py cifar10 --root DIR --only 'ratio 0.1'     # a point of the frontier
    python benchmarks/content_and_style.py cifar10 --root DIR --table                # of what is finished

15,000 training images, drawn once. Settings are chosen on training images alone (``--tune``: 12,800 to fit, 4,000
others to score). Same encoder, views, steps and learning rates for all; contrastive methods have the projection head
that their authors use. A fit takes one thread; finished ones are not repeated.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

COMMON = {
    "fashionmnist": ["--epochs", "50"],
    "cifar10": ["--epochs", "20", "--encoder", "residual(width=16)", "--decoder", "residual(width=16)"],
}
TUNE = {"fashionmnist": ["--steps", "2000"], "cifar10": ["--steps", "800", *COMMON["cifar10"][2:]]}
WITH_PIXELS = {"fashionmnist": [], "cifar10": ["--likelihood", "gaussian(variance=0.1)"]}
HEAD = ["--guide", "delta(projection=[256])"]
DECODERS = ("VAE", "SimVE", "SimVE, structured", "bridge")
ROWS: dict[str, list[str]] = {
    "bridge": ["--method", "bridge"],
    "SimCLR": ["--method", "simclr", *HEAD],
    "VAE": ["--method", "vae"],
    "SimVE": ["--method", "simve"],
    "VICReg": ["--method", "vicreg", *HEAD],
    "SimVE, structured": ["--method", "simve", "--guide", "structured"],
    **{
        f"ratio {ratio}": [
            *("--method", "bridge", "--objective"),
            f"elbo(alpha=balanced(ratio={ratio}), backbone=ntxent(projection=[256]))",
        ]
        for ratio in (0, 0.03, 0.1, 1, 3)
    },
    **{
        f"{name}, variance {variance}": ["--method", name.lower(), "--likelihood", f"gaussian(variance={variance})"]
        for variance in (0.01, 0.03, 0.1, 0.3)
        for name in ("VAE", "SimVE", "bridge")
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=list(COMMON))
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS)[:6], metavar="ROW")
    parser.add_argument("--tune", action="store_true", help="fit and score training images alone")
    parser.add_argument("--table", action="store_true", help="fit nothing")
    parser.add_argument("--out", type=Path, default=Path("runs/content_and_style"))
    given = parser.parse_args()
    out = given.out / (given.data + ("-tune" if given.tune else ""))
    out.mkdir(parents=True, exist_ok=True)
    images = out.parent / f"{out.name}.npz"
    if not images.exists():
        np.savez(images, **subset(given.data, given.root, given.tune))
    for seed in given.seeds:
        for row in () if given.table else given.only:
            fitted(row, seed, given.data, images, out, TUNE if given.tune else COMMON)
    print(table(out))


def subset(data: str, root: Path, tune: bool) -> dict[str, np.ndarray]:
    """Images and classes of the splits, by the names that ``npz:`` expects."""
    (x, y), test = (READERS[data](root, split) for split in ("train", "test"))
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    ranges = {"train": (0, 12_800), "validation": (40_000, 41_000), "test": (41_000, 45_000)}
    if not tune:
        ranges = {"train": (0, 15_000), "validation": (45_000, 47_000)}
    splits = {name: (x[first:last], y[first:last]) for name, (first, last) in ranges.items()}
    splits.setdefault("test", test)
    return {f"{name}_{what}": values for name, pair in splits.items() for what, values in zip(WHAT, pair, strict=True)}


def fashionmnist(root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    stem = root / "FashionMNIST/raw" / {"train": "train", "test": "t10k"}[split]
    images = np.fromfile(f"{stem}-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 1, 28, 28)
    return images, np.fromfile(f"{stem}-labels-idx1-ubyte", np.uint8)[8:].astype(np.int64)


def cifar10(root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    files = sorted((root / "cifar10" / split).glob("*/*.jpg"))
    names = sorted({file.parent.name for file in files})
    images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    return images, np.array([names.index(file.parent.name) for file in files])


WHAT = ("images", "labels")
READERS = {"fashionmnist": fashionmnist, "cifar10": cifar10}


def fitted(row: str, seed: int, data: str, images: Path, out: Path, common: dict[str, list[str]]) -> None:
    folder = out / f"{row.replace(' ', '-').replace(',', '')}_{seed}"
    if (folder / "results.json").exists():
        return
    pixels = WITH_PIXELS[data] if row in DECODERS or row.startswith("ratio") else []
    goes_on = [f"--resume={folder}"] if (folder / "config.json").exists() else None
    flags = goes_on or ["--data", f"npz:{images}", "--seed", str(seed), "--out", str(folder), *common[data], *pixels]
    command = [sys.executable, "-m", "pp_simve.fit", "--quiet", *flags, *([] if goes_on else ROWS[row])]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def table(out: Path) -> str:
    """Markdown: a row a setting, mean ± sd over its seeds."""
    found: dict[str, list[dict[str, float]]] = {}
    for file in sorted(out.glob("*/results.json")):
        results = json.loads(file.read_text())
        scores = {}
        for part in ("backbone", "z"):
            for record in results["records"]:
                if record["representation"] == part and record["target"] in ("", "mean"):
                    scores[f"{part}: {record['probe'] if record['task'] == 'class' else 'R²'}"] = record["value"]
        last = json.loads((file.parent / "metrics.jsonl").read_text().splitlines()[-1])
        scores["α"] = last.get("alpha", float("nan"))
        found.setdefault(file.parent.name.rsplit("_", 1)[0], []).append(scores)
    columns = list(next(iter(found.values()))[0]) if found else []
    lines = [f"| | seeds | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 2)}"]
    for name, runs in sorted(found.items()):
        cells = [spread([run[column] for run in runs]) for column in columns]
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    if any(value != value for value in values):
        return "–"
    mean = f"{statistics.mean(values):.3f}" if abs(values[0]) < 2 else f"{statistics.mean(values):.0f}"
    return mean if len(values) == 1 or abs(values[0]) >= 2 else f"{mean} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    main()
