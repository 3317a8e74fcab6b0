"""Content and style at the backbone and in z: VAE, SimVE, contrastive methods and the balanced bridge, side by side.

    python benchmarks/content_and_style.py fashionmnist --root DIR --seeds 0 1 2     # DIR/FashionMNIST/raw/*
    python benchmarks/content_and_style.py cifar10 --root DIR --seeds 0 1 2          # DIR/cifar10/{train,test}/CLASS/*
    python benchmarks/content_and_style.py cifar10 --root DIR --only 'ratio 0.3'     # a point of the frontier
    python benchmarks/content_and_style.py cifar10 --root DIR --table                # of what is finished
    python benchmarks/content_and_style.py cifar10 --frontier docs/frontier.png      # the same, as a figure
    python benchmarks/content_and_style.py celeba --root DIR --seeds 0 1 2 --only bridge SimCLR VAE SimVE
    python benchmarks/content_and_style.py celeba --root DIR --errors                # of the attributes, over images
    python benchmarks/content_and_style.py paper --root DIR --seeds 0 1 2 --only VAE SimVE 'SimVE, flat'

15,000 training images, drawn once; of CelebA all there are, with the attributes' areas under the curve by
`pp_simve.evaluate`. ``paper``: Fashion-MNIST with the networks, views, batches and learning rate of the paper's
released code. Settings are chosen on training images alone (``--tune``: 12,800 to fit, 4,000 others to score). Same
encoder, views, steps and learning rates for all; contrastive methods have the projection head that their authors use.
A fit takes one thread; finished ones are not repeated.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from pp_simve import load_data, load_run
from pp_simve.data.types import ImageData
from pp_simve.evaluation.probes import AttributeProbe, roc_auc
from pp_simve.run.loaded import LoadedRun

RESIDUAL = ["--encoder", "residual(width=16)", "--decoder", "residual(width=16)"]
COMMON = {
    "fashionmnist": ["--epochs", "50"],
    "cifar10": ["--epochs", "20", *RESIDUAL],
    "celeba": ["--epochs", "60", "--batch-size", "64", *RESIDUAL],
    "paper": [
        *("--epochs", "50", "--batch-size", "64", "--policy", "paper", "--latent-dim", "10"),
        *("--optimizer", "adam(eps=1e-4)", "--lr", "8e-5", "--schedule", "constant"),
    ],
}
TUNE = {"fashionmnist": ["--steps", "2000"], "cifar10": ["--steps", "800", *RESIDUAL]}
COLOR = ["--likelihood", "gaussian(variance=0.1)"]
WITH_PIXELS = {"fashionmnist": [], "cifar10": COLOR, "celeba": COLOR, "paper": []}
HEAD = ["--guide", "delta(projection=[256])"]
DECODERS = ("VAE", "SimVE", "SimVE, structured", "bridge")
RATIOS = (0, 0.03, 0.3, 1, 3)
"""Of the frontier, beside the bridge's own of 0.1."""
ROWS: dict[str, list[str]] = {
    "bridge": ["--method", "bridge"],
    "SimCLR": ["--method", "simclr", *HEAD],
    "VAE": ["--method", "vae"],
    "SimVE": ["--method", "simve"],
    "VICReg": ["--method", "vicreg", *HEAD],
    "SimVE, structured": ["--method", "simve", "--guide", "structured"],
    "SimVE, flat": ["--method", "simve", "--prior", "flat"],
    "SimVE, J = 4": ["--method", "simve", "--views", "4"],
    "SimVE, flat, J = 4": ["--method", "simve", "--prior", "flat", "--views", "4"],
    "VAE, J = 4": ["--method", "vae", "--views", "4"],
    **{
        f"ratio {ratio}": [
            *("--method", "bridge", "--objective"),
            f"elbo(alpha=balanced(ratio={ratio}), backbone=ntxent(projection=[256]))",
        ]
        for ratio in RATIOS
    },
    **{
        f"ratio {start} to {end}": [
            *("--method", "bridge", "--objective"),
            f"elbo(alpha=balanced(ratio=linear(start={start}, end={end})), backbone=ntxent(projection=[256]))",
        ]
        for start, end in ((0.03, 0.3), (0.3, 0.03))
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
    parser.add_argument("--frontier", type=Path, metavar="FILE", help="fit nothing; draw content against style")
    parser.add_argument("--errors", action="store_true", help="fit nothing; standard errors over CelebA's test images")
    parser.add_argument("--out", type=Path, default=Path("runs/content_and_style"))
    given = parser.parse_args()
    out = given.out / (given.data + ("-tune" if given.tune else ""))
    out.mkdir(parents=True, exist_ok=True)
    if given.errors:
        print(errors(out, given.root))
        return
    if not given.table and not given.frontier:
        source = read_from(given.data, given.root, given.tune, out)
        for seed in given.seeds:
            for row in given.only:
                fitted(row, seed, given.data, source, out, TUNE if given.tune else COMMON)
    if given.frontier:
        frontier(out, given.frontier)
    print(table(out))


def read_from(data: str, root: Path, tune: bool, out: Path) -> list[str]:
    """The flags that name the images."""
    if data == "celeba":
        return ["--data", data, "--data-root", str(root)]
    images = out.parent / f"{out.name}.npz"
    if not images.exists():
        np.savez(images, **subset(data, root, tune))
    return ["--data", f"npz:{images}"]


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
READERS = {"fashionmnist": fashionmnist, "cifar10": cifar10, "paper": fashionmnist}


def fitted(row: str, seed: int, data: str, source: list[str], out: Path, common: dict[str, list[str]]) -> None:
    folder = out / f"{row.replace(' ', '-').replace(',', '')}_{seed}"
    if not (folder / "results.json").exists():
        fit(row, seed, data, source, folder, common)
    if data == "celeba" and not (folder / "evaluation.json").exists():
        run("pp_simve.evaluate", [str(folder)])


def fit(row: str, seed: int, data: str, source: list[str], folder: Path, common: dict[str, list[str]]) -> None:
    pixels = WITH_PIXELS[data] if row in DECODERS or row.startswith("ratio") else []
    goes_on = [f"--resume={folder}"] if (folder / "config.json").exists() else None
    flags = goes_on or [*source, "--seed", str(seed), "--out", str(folder), *common[data], *pixels, *ROWS[row]]
    run("pp_simve.fit", ["--quiet", *flags])


def run(module: str, flags: list[str]) -> None:
    subprocess.run([sys.executable, "-m", module, *flags], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def scores(folder: Path) -> dict[str, float]:
    """Class, mean R² and mean area under the attributes' curves of a finished fit, by column."""
    records = [
        record
        for name in ("results.json", "evaluation.json")
        if (folder / name).exists()
        for record in json.loads((folder / name).read_text())["records"]
    ]
    found: dict[str, float] = {}
    for part in ("backbone", "z"):
        for task, probe, metric, target, column in MEASURES:
            for record in records:
                asked = (part, task, probe, metric, target)
                if asked == tuple(record[key] for key in ("representation", "task", "probe", "metric", "target")):
                    found.setdefault(f"{part}: {column}", record["value"])
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return found | {"α": last.get("alpha", float("nan"))}


MEASURES = (
    ("class", "linear", "accuracy", "", "linear"),
    ("class", "knn", "accuracy", "", "k-NN"),
    ("view", "ridge", "r2", "mean", "R²"),
    ("attributes", "logistic", "auc", "mean", "AUC"),
)


def finished(out: Path) -> dict[str, list[dict[str, float]]]:
    """The scores of each row's seeds."""
    found: dict[str, list[dict[str, float]]] = {}
    for file in sorted(out.glob("*/results.json")):
        found.setdefault(file.parent.name.rsplit("_", 1)[0], []).append(scores(file.parent))
    return found


def table(out: Path) -> str:
    """Markdown: a row a setting, mean ± sd over its seeds."""
    found = finished(out)
    columns = list(next(iter(found.values()))[0]) if found else []
    lines = [f"| | seeds | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 2)}"]
    for name, runs in sorted(found.items()):
        cells = [spread([run.get(column, float("nan")) for run in runs]) for column in columns]
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def frontier(out: Path, file: Path) -> None:
    """Content against style: the bridge's ratios as a curve, from the seed that all have, other methods as points."""
    found = {name: runs[0] for name, runs in finished(out).items()}
    names = {ratio: f"ratio-{ratio}" for ratio in RATIOS} | {0.1: "bridge"}
    curve = [(ratio, found[name]) for ratio, name in sorted(names.items()) if name in found]
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for axes, part, content in zip(panels, ("backbone", "z"), ("linear", "k-NN"), strict=True):
        across, up = f"{part}: {content}", f"{part}: R²"
        axes.plot([at[across] for _, at in curve], [at[up] for _, at in curve], "o-", label="bridge, by ratio")
        for ratio, at in curve:
            axes.annotate(f"{ratio:g}", (at[across], at[up]), xytext=(5, 5), textcoords="offset points")
        for name in ("VAE", "SimVE", "SimVE-structured", "SimCLR", "VICReg"):
            if name in found:
                axes.plot(found[name][across], found[name][up], "s", label=name.replace("-", ", "))
        axes.margins(0.1)
        axes.set(xlabel=f"class, {content}, accuracy", ylabel="view parameters, mean R²", title=part)
    panels[0].legend()
    figure.savefig(file, dpi=120)


def errors(out: Path, root: Path, resamples: int = 1000) -> str:
    """Markdown: standard errors of the mean areas under the attributes' curves and of their differences to the bridge.

    By bootstrap: the same resampled test images for all rows, areas averaged over the seeds of a row.
    """
    data = load_data("celeba", root)
    positive = data.test.attributes
    assert positive is not None
    lines = ["| | seeds | AUC | ± | bridge above it by | ± |", f"|{'---|' * 6}"]
    for part in ("backbone", "z"):
        areas: dict[str, torch.Tensor] = {}
        seeds: dict[str, int] = {}
        for folder in sorted(file.parent for file in out.glob("*/evaluation.json")):
            row = folder.name.rsplit("_", 1)[0]
            log_odds, varies = attribute_log_odds(load_run(folder), data, part)
            # The images themselves come first.
            drawn = [torch.arange(len(positive)), *resampled(len(positive), resamples)]
            found = torch.stack([roc_auc(log_odds[at], positive[at][:, varies]).nanmean() for at in drawn])
            areas[row] = areas.get(row, torch.zeros(())) + found
            seeds[row] = seeds.get(row, 0) + 1
        means = {row: total / seeds[row] for row, total in areas.items()}
        for row, mean in means.items():
            above = means["bridge"] - mean
            cells = [f"{values[0]:.3f} | {values[1:].std():.3f}" for values in (mean, above)]
            lines.append(f"| {part}: {row} | {seeds[row]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def attribute_log_odds(run: LoadedRun, data: ImageData, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Of test images, for the attributes that vary in train, and which these are."""
    (train_x, train_y), (validation_x, validation_y), (test_x, _) = (
        (torch.from_numpy(run.embed(split.images, part)[part]), split.attributes)
        for split in (data.train, data.validation, data.test)
    )
    assert train_y is not None
    assert validation_y is not None
    varies = train_y.any(0) & ~train_y.all(0)
    probe = AttributeProbe().fit(train_x, train_y[:, varies], validation_x, validation_y[:, varies])
    return probe.predict(test_x), varies


def resampled(images: int, times: int) -> torch.Tensor:
    return torch.randint(images, (times, images), generator=torch.Generator().manual_seed(0))


def spread(values: list[float]) -> str:
    if any(value != value for value in values):
        return "–"
    mean = f"{statistics.mean(values):.3f}" if abs(values[0]) < 2 else f"{statistics.mean(values):.0f}"
    return mean if len(values) == 1 or abs(values[0]) >= 2 else f"{mean} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    main()
