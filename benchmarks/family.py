"""The VAE family and SimVE side by side: same networks, same views; fits what is missing, then prints one table.

    python benchmarks/family.py --data digits --seeds 3
    python benchmarks/family.py --data fashionmnist --data-root DIR --epochs 10 --seeds 3 --once

What a step costs is measured by steps.py: fits that run side by side share the cores.
The fits are those of `python -m pp_simve.compare`, a row each; finished ones are not repeated.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pp_simve import compare
from pp_simve.run.comparison_plan import folder_name

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


def compared(
    description: str, settings: Mapping[str, list[str]], several: Sequence[str], out: Path
) -> dict[str, list[Path]]:
    """Run folders of the command line's settings, fitted where they are missing; prints their table."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--epochs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--once", action="store_true", help=f"one seed for all but {', '.join(several)}")
    parser.add_argument("--only", nargs="*", choices=list(settings), default=list(settings), metavar="NAME")
    parser.add_argument("--jobs", default="2", help="fits at a time")
    parser.add_argument("--out", type=Path, default=out)
    given = parser.parse_args()

    folder = given.out / given.data
    flags = [
        "--data",
        given.data,
        "--data-root",
        given.data_root,
        "--jobs",
        given.jobs,
        "--out",
        str(folder),
        "--mixed",
    ]
    flags += ["--epochs", given.epochs] if given.epochs else []
    seeds = {name: 1 if given.once and name not in several else given.seeds for name in given.only}
    for count in sorted(set(seeds.values())):
        rows = [f"--row={name}: {shlex.join(settings[name])}" for name in seeds if seeds[name] == count]
        if code := compare.main([*rows, "--seeds", str(count), *flags]):
            sys.exit(code)
    return {name: [folder / f"{folder_name(name)}-{seed}" for seed in range(count)] for name, count in seeds.items()}


if __name__ == "__main__":
    compared(__doc__ or "", SETTINGS, ("VAE", "SimVE"), Path("runs/family"))
