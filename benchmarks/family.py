"""The VAE family and SimVE side by side: same networks, same views; fits what is missing, then prints one table.

    python benchmarks/family.py --data digits --seeds 3
    python benchmarks/family.py --data fashionmnist --data-root DIR --epochs 10 --seeds 3 --once

What a step costs is measured by steps.py: fits that run beside one another cannot tell.
Each fit is a `python -m pp_simve.fit` with one thread, in its own folder below --out; finished ones are not repeated.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SETTINGS: dict[str, list[str]] = {
    "untrained": ["--steps", "1", "--lr", "1e-9"],
    "VAE": ["--method", "vae"],
    "SimVE": ["--method", "simve"],
    "β-VAE, β = 4": ["--method", "beta-vae"],
    "CR-VAE": ["--method", "cr-vae"],
    "AAVAE": ["--method", "aavae"],
    "IWAE, 8 samples": ["--method", "iwae"],
    "group VAE": ["--method", "group-vae"],
    "SimVE, structured": ["--guide", "structured"],
    "SimVE, flat": ["--prior", "flat"],
    "SimVE, mixture of 10": ["--prior", "mixture"],
    "SimVE, learned style": ["--prior", "gaussian(learn_style=True)"],
    "SimVE, learned style, structured": ["--prior", "gaussian(learn_style=True)", "--guide", "structured"],
    "SimVE, J = 4": ["--views", "4", "--batch-size", "64"],
    "SimVE, J = 4, structured": ["--views", "4", "--batch-size", "64", "--guide", "structured"],
}
SEVERAL = ("VAE", "SimVE")


def main() -> None:
    folders = asked_for(__doc__ or "", SETTINGS, SEVERAL, Path("runs/family"))
    print(table(folders))


def asked_for(
    description: str, settings: Mapping[str, list[str]], several: Sequence[str], out: Path
) -> dict[str, list[Path]]:
    """The run folders that the command line asks for, fitted where they are missing."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--once", action="store_true", help=f"one seed for all but {', '.join(several)}")
    parser.add_argument("--only", nargs="*", choices=list(settings), default=list(settings), metavar="NAME")
    parser.add_argument("--jobs", type=int, default=2, help="fits at a time")
    parser.add_argument("--out", type=Path, default=out)
    arguments = parser.parse_args()

    flags = ["--data", arguments.data, "--data-root", arguments.data_root, "--quiet"]
    length = ["--epochs", f"{arguments.epochs:g}"] if arguments.epochs else []
    chosen = {name: settings[name] for name in arguments.only}
    chosen = {name: own if "--steps" in own else [*length, *own] for name, own in chosen.items()}
    seeds = {name: 1 if arguments.once and name not in several else arguments.seeds for name in chosen}
    return fitted(chosen, seeds, flags, arguments.out / arguments.data, arguments.jobs)


def fitted(
    settings: Mapping[str, list[str]], seeds: Mapping[str, int], flags: Sequence[str], out: Path, jobs: int
) -> dict[str, list[Path]]:
    """The run folders of each setting, one a seed, fitted where they are missing."""
    folders: dict[str, list[Path]] = {}
    waiting: list[tuple[Path, list[str]]] = []
    for name, own in settings.items():
        for seed in range(seeds[name]):
            folder = out / f"{''.join(c for c in name if c.isalnum())}-{seed}"
            folders.setdefault(name, []).append(folder)
            if not (folder / "results.json").exists():
                waiting.append((folder, [*flags, *own, "--seed", str(seed), "--out", str(folder)]))
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(fit, *zip(*waiting, strict=True)) if waiting else ())
    return folders


def fit(folder: Path, flags: Sequence[str]) -> None:
    """One fit in a process of its own; an unfinished one starts again."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pp_simve.fit", *flags]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    print("finished", folder, file=sys.stderr, flush=True)


def table(folders: dict[str, list[Path]]) -> str:
    """Markdown: a row a setting, mean ± sd over its seeds."""
    lines = [
        "| | seeds | bound, nats a view | linear | k-NN | views, mean R² | peak MB | commit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, runs in folders.items():
        results = [json.loads((run / "results.json").read_text()) for run in runs]
        commits = {json.loads((run / "config.json").read_text())["commit"] for run in runs}
        cells = [
            spread([-result["bound"]["loss"] / result["views"] for result in results], 2),
            spread([result["content"]["linear"] for result in results], 3),
            spread([result["content"]["knn"] for result in results], 3),
            spread([result["style"]["mean_r2"] for result in results], 3),
            f"{max(result['peak_memory_mb'] for result in results):.0f}",
            ", ".join(sorted(str(commit) for commit in commits)),
        ]
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


if __name__ == "__main__":
    main()
