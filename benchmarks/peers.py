"""Images a second and memory beside what one would use otherwise: pythae's VAE trainer, lightly's SimCLR.

    python benchmarks/peers.py [--data-root DIR] [--images 2048] [--rounds 5] [--threads 1]

Both are on PyPI (pip install pythae lightly). Each pair has the same networks, images, batches and Adam: ``vae`` the
MLP networks on Fashion-MNIST by pythae's ``BaseTrainer``, ``simclr`` the residual encoder on CIFAR-10 by lightly's
transforms, head and loss in the loop of its examples; `pp_simve` as it comes, and with networks in float32, as theirs
are. Each turn is a process of its own, whose second epoch is timed. They take turns; ratios are taken within a round.
Without --data-root, images are noise: the work is the same. 2>/dev/null hides the progress bars.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from throughput import SETTINGS, ViewDataset, read_images
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pp_simve import (
    ELBO,
    AmortizedGuide,
    Bernoulli,
    DeltaGuide,
    FlatPrior,
    MLPDecoder,
    MLPEncoder,
    NTXent,
    ResidualEncoder,
    SimVE,
    StandardPrior,
    inference,
)
from pp_simve.inference.augmentations import Compose

BATCH, LATENT, HIDDEN, LR, EPOCHS = 128, 64, 256, 1e-3, 2
OWN = ("pp_simve", "pp_simve in float32")
DATA = {"vae": SETTINGS["fashionmnist"], "simclr": SETTINGS["cifar"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turn", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.turn:
        turn(given)
        return
    print("| | images a second, median (min-max) | of the peer's | memory at most, MB |\n|---|---|---|---|")
    for method, peer in {"vae": "pythae", "simclr": "lightly"}.items():
        turns: dict[str, list[dict[str, float]]] = {library: [] for library in (peer, *OWN)}
        for _ in range(given.rounds):
            for library, found in turns.items():
                command = [sys.executable, __file__, *sys.argv[1:], "--turn", method, library]
                text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                found.append(json.loads(text.splitlines()[-1]))
        for library, found in turns.items():
            speeds = [one["speed"] for one in found]
            ratio = statistics.median(one / base["speed"] for one, base in zip(speeds, turns[peer], strict=True))
            spread = f"{statistics.median(speeds):.0f} ({min(speeds):.0f}-{max(speeds):.0f})"
            print(f"| {method}, {library} | {spread} | {ratio:.2f} | {max(one['memory'] for one in found):.0f} |")


def turn(given: argparse.Namespace) -> None:
    """Prints images a second of the last epoch, and the largest resident memory of this process."""
    torch.set_num_threads(given.threads)
    method, library = given.turn
    images = read_images(DATA[method], given.data_root)[0][: given.images // BATCH * BATCH].clone()
    ends = own(method, images, library) if library in OWN else {"vae": pythae, "simclr": lightly}[method](images)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"speed": len(images) / (ends[-1] - ends[-2]), "memory": memory}))


def own(method: str, images: Tensor, library: str) -> list[float]:
    """`pp_simve`: times at the ends of epochs."""
    shape, ends = DATA[method].image_shape, list[float]()
    if method == "vae":
        model = SimVE(StandardPrior(LATENT), Bernoulli(MLPDecoder(LATENT, shape)))
        guide: inference.Guide = AmortizedGuide(MLPEncoder(shape), model.prior)
        objective = ELBO(model, guide)
    else:
        model = SimVE(FlatPrior(LATENT), group=NTXent(temperature=0.5))
        guide = DeltaGuide(ResidualEncoder(shape), model.prior, projection=[HIDDEN])
        objective = ELBO(model, guide, beta=0.0)
    inference.fit(
        *(model, guide, images),
        objective=objective,
        policy=Compose([], shape) if method == "vae" else DATA[method].policy,
        views=1 if method == "vae" else 2,
        batch_size=BATCH,
        epochs=EPOCHS,
        lr=LR,
        precision="32" if library.endswith("32") else "auto",
        device="cpu",
        fetch_every=len(images) // BATCH,
        monitor=lambda progress: ends.append(time.perf_counter()),
    )
    return ends


def pythae(images: Tensor) -> list[float]:
    """pythae's trainer of its VAE: times at the ends of epochs."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    shape, ends = DATA["vae"].image_shape, list[float]()

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            network = MLPEncoder(shape)
            self.network = nn.Sequential(network, nn.Linear(network.features, 2 * LATENT))

        def forward(self, x: Tensor) -> Any:
            mean, log_variance = self.network(x).chunk(2, -1)
            return ModelOutput(embedding=mean, log_covariance=log_variance)

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = MLPDecoder(LATENT, shape)

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.network(z).sigmoid())

    class Clock(TrainingCallback):  # type: ignore[misc]
        def on_epoch_end(self, training_config: Any, **others: Any) -> None:
            ends.append(time.perf_counter())

    model = VAE(VAEConfig(input_dim=shape, latent_dim=LATENT, reconstruction_loss="bce"), Encoder(), Decoder())
    with tempfile.TemporaryDirectory() as folder:
        settings = BaseTrainerConfig(folder, BATCH, num_epochs=EPOCHS, learning_rate=LR, no_cuda=True)
        data = BaseDataset(images.float() / 255, torch.zeros(len(images)))
        BaseTrainer(model, train_dataset=data, training_config=settings, callbacks=[Clock()]).train()
    return ends


def lightly(images: Tensor) -> list[float]:
    """lightly's SimCLR, by the loop of its examples: times at the ends of epochs."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms.simclr_transform import SimCLRViewTransform

    shape, ends = DATA["simclr"].image_shape, list[float]()
    encoder = ResidualEncoder(shape)
    model = nn.Sequential(encoder, SimCLRProjectionHead(encoder.features, HIDDEN, LATENT))
    # The views of the policy crop+colour.
    view = SimCLRViewTransform(shape[-1], cj_strength=0.5, min_scale=0.3, gaussian_blur=0.0, normalize=None)
    loader = DataLoader(ViewDataset(images, view), BATCH, shuffle=True, drop_last=True)
    criterion, optimizer = NTXentLoss(temperature=0.5), torch.optim.Adam(model.parameters(), lr=LR)
    for _ in range(EPOCHS):
        for views in loader:
            loss = criterion(model(views[:, 0]), model(views[:, 1]))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append(time.perf_counter())
    return ends


if __name__ == "__main__":
    main()
