"""The evaluators on features of any model: here the principal components of the digits' pixels. A few seconds."""

import argparse

import torch

from pp_simve.data import load_data
from pp_simve.evaluation import (
    KNNProbe,
    LinearProbe,
    MLPProbe,
    RidgeProbe,
    cluster_scores,
    effective_rank,
    few_label_scores,
    handwriting_style,
)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--components", type=int, default=32)
arguments = parser.parse_args()

digits = load_data("digits")
splits = (digits.train, digits.validation, digits.test)
pixels = [split.images.flatten(1).float() / 255 for split in splits]
labels = [split.labels for split in splits if split.labels is not None]
torch.manual_seed(0)
_, _, axes = torch.pca_lowrank(pixels[0], q=arguments.components)
features = [part @ axes for part in pixels]
train, validation, test = zip(features, labels, strict=True)

print("content, accuracy on test:")
for probe in (LinearProbe(), MLPProbe(), KNNProbe()):
    print(f"  {type(probe).__name__:12} {probe.fit(*train, *validation).score(*test):.3f}")
for count, scores in few_label_scores(train, validation, test, counts=(1, 10)).items():
    print(f"  linear, {count:>2} labels a class {scores['mean']:.3f} ± {scores['sd']:.3f}")
clusters = cluster_scores(features[0], test)
print(f"  clusters without labels {clusters['accuracy']:.3f}, NMI {clusters['nmi']:.3f}")

print("style of the writing, R² on test:")
written = [handwriting_style(split.images.float() / 255) for split in splits]
targets = [torch.stack(list(style.values()), 1) for style in written]
found = RidgeProbe().fit(features[0], targets[0], features[1], targets[1]).score(features[2], targets[2])
for name, score in zip(written[0], found.tolist(), strict=True):
    print(f"  {name:12} {score:.3f}")
print(f"effective rank {effective_rank(features[2]):.1f} of {arguments.components}")
