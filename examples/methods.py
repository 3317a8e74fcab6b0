"""z of digits under each method: clean test images, a panel a method. About three minutes on two cores."""

import argparse
import math

import torch
from matplotlib import pyplot

from pp_simve.data import load_data
from pp_simve.evaluation import evaluate_representations, score
from pp_simve.inference import WarmupCosine, fit
from pp_simve.inference.augmentations import augmentation_policy
from pp_simve.run.config import FitConfig
from pp_simve.run.methods import build

METHODS = ("simve", "bridge", "infonce", "simclr", "vicreg", "barlow", "swav", "instance", "simsiam", "byol")
parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--methods", nargs="+", default=METHODS, metavar="METHOD")
parser.add_argument("--epochs", type=float, default=150)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--figure", help="write a picture there")
arguments = parser.parse_args()

digits = load_data("digits")
policy = augmentation_policy("affine", digits.image_shape)
columns = min(5, len(arguments.methods))
rows = math.ceil(len(arguments.methods) / columns)
figure, grid = pyplot.subplots(rows, columns, figsize=(2.6 * columns, 2.9 * rows), layout="constrained", squeeze=False)
print("method      content: linear    k-NN   style: R²")
for axes, method in zip(grid.flat, arguments.methods, strict=False):
    settings = FitConfig(method=method, seed=arguments.seed).resolve(digits.shape)
    torch.manual_seed(settings.seed)
    program = build(settings, digits.shape)
    fit(
        program.model,
        program.guide,
        digits.train.images,
        objective=program.objective,
        policy=policy,
        batch_size=128,
        epochs=arguments.epochs,
        lr=2e-3,
        schedule=WarmupCosine(),
        seed=settings.seed,
    )
    splits = (digits.train, digits.validation, digits.test)
    records = evaluate_representations(program.guide, policy, *splits, seed=0, representations=("z",))
    linear, knn = (score(records, task="class", probe=name) for name in ("linear", "knn"))
    r2 = score(records, task="view", target="mean")
    print(f"{method:10} {linear:16.3f} {knn:7.3f} {r2:11.3f}")

    z = program.guide.embed_batches(digits.test.images).z
    flat, _, _ = torch.pca_lowrank(z, q=2, center=True)
    axes.scatter(*flat.T, c=digits.test.labels, cmap="tab10", s=4)
    axes.set_title(f"{method}\nclass {knn:.3f}, views {r2:.3f}", fontsize=9)
    axes.set(xticks=[], yticks=[])
for axes in list(grid.flat)[len(arguments.methods) :]:
    axes.set_visible(False)
if arguments.figure:
    figure.savefig(arguments.figure, dpi=120)
