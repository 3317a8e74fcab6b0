"""Images in memory, in a file, and from a `DataLoader`: speed of a fit as a ratio, and memory of its process.

    python benchmarks/streams.py [--gigabytes 6] [--seconds 20] [--rounds 3] [--out DIR]

The same noise images, 3x64x64 in one npy file, the same small networks and steps. The three take turns, a process each,
so that memory is their own: ``resident`` reads the file into memory, ``mapped`` leaves it there (an ``np.memmap``),
``loader`` is a `DataLoader` of single images with a worker. Steps a second after the first 20; anonymous memory at the
end (what cannot be given back to the system) and resident memory at most, of the process and its worker.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pp_simve import AmortizedGuide, Gaussian, GaussianPrior, ResidualDecoder, ResidualEncoder, SimVE
from pp_simve.inference import Progress, fit

SHAPE, BATCH = (3, 64, 64), 128
WAYS = ("resident", "mapped", "loader")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=6)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--turn", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.turn:
        print(json.dumps(turn(given.turn[0], Path(given.turn[1]), given.seconds)))
        return
    file = given.out / f"noise-{given.gigabytes:g}.npy"
    if not file.exists():
        write(file, int(given.gigabytes * 1e9 / np.prod(SHAPE)))
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(given.rounds):
        for way in WAYS[number % 3 :] + WAYS[: number % 3]:
            command = [sys.executable, __file__, "--turn", way, str(file), "--seconds", str(given.seconds)]
            text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[way].append(json.loads(text.splitlines()[-1]))
            print(way, found[way][-1], flush=True)
    print("| | steps a second | of resident | anonymous, GB | resident at most, GB |\n|---|---|---|---|---|")
    for way, turns in found.items():
        ratios = [one["steps"] / base["steps"] for one, base in zip(turns, found["resident"], strict=True)]
        speed, anonymous, most = (statistics.median(one[of] for one in turns) for of in ("steps", "anonymous", "most"))
        print(f"| {way} | {speed:.2f} | {statistics.median(ratios):.2f} | {anonymous:.2f} | {most:.2f} |")


class Single(Dataset[Tensor]):
    """An image at a time, as most data sets give them."""

    def __init__(self, file: Path) -> None:
        self.images = np.load(file, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(self.images[index].copy())


def write(file: Path, images: int) -> None:
    out = np.lib.format.open_memmap(file, "w+", np.uint8, (images, *SHAPE))
    generator = np.random.default_rng(0)
    for first in range(0, images, 4096):
        chunk = out[first : first + 4096]
        chunk[:] = generator.integers(0, 256, chunk.shape, np.uint8)
    out.flush()


def turn(way: str, file: Path, seconds: float) -> dict[str, float]:
    """Steps a second, and gigabytes."""
    torch.manual_seed(0)
    data = {
        "resident": lambda: np.load(file),
        "mapped": lambda: np.load(file, mmap_mode="r"),
        "loader": lambda: DataLoader(Single(file), BATCH, shuffle=True, drop_last=True, num_workers=1),
    }[way]()
    prior = GaussianPrior(32)
    model = SimVE(prior, Gaussian(ResidualDecoder(32, SHAPE, width=4), 0.1))
    guide = AmortizedGuide(ResidualEncoder(SHAPE, width=4), prior)
    clock: list[tuple[int, float]] = []
    most = [0.0]

    def monitor(progress: Progress) -> None:
        clock.append((progress.step, time.perf_counter()))
        most[0] = max(most[0], memory("VmRSS"))

    fit(
        *(model, guide, data),
        **({} if way == "loader" else {"batch_size": BATCH}),
        steps=100_000,
        device="cpu",
        fetch_every=10,
        monitor=monitor,
        should_stop=lambda: len(clock) > 2 and clock[-1][1] - clock[1][1] > seconds,
    )
    (first, began), (last, ended) = clock[1], clock[-1]
    return {"steps": (last - first) / (ended - began), "anonymous": memory("RssAnon"), "most": most[0]}


def memory(entry: str) -> float:
    """Gigabytes of this process and its children by an entry of /proc/PID/status."""
    children = Path("/proc/self/task").glob("*/children")
    pids = ["self", *(pid for file in children for pid in file.read_text().split())]
    status = [(Path("/proc") / pid / "status").read_text() for pid in pids]
    return sum(int(line.split()[1]) for text in status for line in text.splitlines() if line.startswith(entry)) / 1e6


if __name__ == "__main__":
    main()
