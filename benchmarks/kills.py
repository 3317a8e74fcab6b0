"""Processes killed at random times: each command, given once more, ends with what an uninterrupted one wrote.

python benchmarks/kills.py --kills 50 --seconds 600
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

from pp_simve.__main__ import main as pp_simve
from pp_simve.commands import run_compare, run_diagnose, run_evaluate, run_fit
from pp_simve.evaluation import Effort
from pp_simve.run import scores
from pp_simve.run.lock import LOCK

FIT = (
    *("--data=npz:images.npz", "--encoder=mlp(hidden=[32])", "--decoder=mlp(hidden=[32])", "--latent=8", "--epochs=60"),
    *("--batch-size=8", "--accumulate=2", "--ema=0.9", "--log-every=3", "--checkpoint-minutes=0.005", "--device=cpu"),
)
COMMANDS = {
    "fit": ("fit", *FIT, "--resume=auto", "--out=run"),
    "evaluate": ("evaluate", "run", "--rows=50", "--restarts=1"),
    "diagnose": ("diagnose", "run", "--images=8", "--draws=50", "--simulations=50"),
    "compare": ("compare", "--methods=simve", "--seeds=1", "--out=.", *FIT),
}
TIMES = {"commit", "seconds", "seconds_per_epoch", "seconds_evaluating", "peak_memory_mb", "sha256"}
KILLS_A_ROUND = 5


IMPORTED = (run_compare, run_diagnose, run_evaluate, run_fit)  # once, before processes are forked
QUICKLY = partial(Effort, min_views=100)


def start(folder: Path, command: str) -> multiprocessing.Process:
    """A command in a process of its own, which is forked: no time is lost with imports."""
    process = multiprocessing.get_context("fork").Process(target=call, args=(folder, command))
    process.start()
    return process


def call(folder: Path, command: str) -> None:
    os.chdir(folder)
    sys.exit(pp_simve([*COMMANDS[command], "--quiet"]))


def ended_well(process: multiprocessing.Process) -> bool:
    process.join()
    return process.exitcode == 0


def written(folder: Path) -> dict[str, object]:
    """What must be the same: all numbers but times, weights and metrics byte by byte."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name in ("metrics.jsonl", "model.safetensors", "posterior.nc"):
            found[name] = path.read_bytes()
        elif path.name in ("results.json", "evaluation.json", "diagnostics.json"):
            entries = json.loads(path.read_text())
            found[name] = {key: value for key, value in entries.items() if key not in TIMES}
        elif path.name.startswith("."):
            found[name] = "left behind"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=600, help="after which no further round is begun")
    parser.add_argument("--commands", default=",".join(COMMANDS), help="fit first, from which others start")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance, commands = random.Random(arguments.seed), arguments.commands.split(",")
    os.environ["OMP_NUM_THREADS"] = "1"
    scores.QUICK, run_evaluate.Effort = QUICKLY(), QUICKLY  # type: ignore[misc, assignment]

    root = Path(tempfile.mkdtemp(prefix="kills-"))
    noise = np.random.default_rng(0).integers(0, 256, (120, 16, 16), dtype=np.uint8)
    expected, durations = {}, {}
    for command in commands:  # evaluate and diagnose start from the fit
        folder = root / command
        if command in ("evaluate", "diagnose"):
            shutil.copytree(root / "fit", folder)
        else:
            folder.mkdir()
            np.savez(folder / "images.npz", images=noise, labels=np.arange(120) % 2)
        shutil.copytree(folder, root / f"before-{command}")
        begun = time.monotonic()
        assert ended_well(start(folder, command)), command
        durations[command], expected[command] = time.monotonic() - begun, written(folder)
        print(f"{command}: {durations[command]:.1f} s, {len(expected[command])} files", flush=True)

    end = time.monotonic() + arguments.seconds
    kills, equal, states = Counter[str](), Counter[str](), Counter[str]()
    while sum(kills.values()) < arguments.kills and time.monotonic() < end:
        command = min(commands, key=lambda name: kills[name] * durations[name])  # as much time for each
        folder = root / "tried"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(root / f"before-{command}", folder)
        for _ in range(KILLS_A_ROUND):
            process = start(folder, command)
            process.join(chance.uniform(0.0, 1.0) * durations[command])
            kills[command] += process.is_alive()
            process.kill()
            process.join()
            states[state(folder)] += 1
            if process.exitcode == 0:
                break
            while any(locked(path) for path in folder.rglob(LOCK)):
                time.sleep(0.1)  # fits of a comparison end with a checkpoint
        same = ended_well(start(folder, command)) and written(folder) == expected[command]
        equal[command] += same
        print(f"{command}: {'equal' if same else f'DIFFERENT, see {folder}'} after {KILLS_A_ROUND} starts", flush=True)
        if not same:
            sys.exit(1)
    print(f"kills: {dict(kills)}, rounds that ended bit for bit equal: {dict(equal)}, left behind: {dict(states)}")
    shutil.rmtree(root)


def state(folder: Path) -> str:
    """What a killed process left."""
    names = {path.name for path in folder.rglob("*")}
    last = ("diagnostics.json", "evaluation.json", "results.json", "model.safetensors", "checkpoint.pt", "config.json")
    return next((name for name in last if name in names), "nothing")


def locked(path: Path) -> bool:
    """Whether the process named in a lock file is alive."""
    words = path.read_text().split()
    try:
        os.kill(int(words[1]), 0)
    except (IndexError, ProcessLookupError, FileNotFoundError):
        return False
    return True


if __name__ == "__main__":
    main()
