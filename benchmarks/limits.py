"""Contrastive methods, SimVE and the bridge between them: probe scores of class and view from backbone and z.

    python benchmarks/limits.py --data digits --seeds 3
    python benchmarks/limits.py --data fashionmnist --data-root DIR --epochs 10 --seeds 3 --once

Same encoder, views and length for all. Fits are those of family.py, not repeated once finished.
"""

import json
import statistics
from pathlib import Path
from typing import Any

from family import compared

SETTINGS: dict[str, list[str]] = {
    "SimVE": ["--method", "simve"],
    "bridge": ["--method", "bridge"],
    "SimCLR": ["--method", "simclr"],
    "VAE": ["--method", "vae"],
    "VICReg": ["--method", "vicreg"],
    "SwAV": ["--method", "swav"],
    "SimCLR, projection": ["--method", "simclr", "--guide", "delta(projection=[256])"],
    "bridge, projection": ["--method", "bridge", "--guide", "amortized(projection=[256])"],
    "InfoNCE": ["--method", "infonce"],
    "instance discrimination": ["--method", "instance"],
    "untrained": ["--steps", "1", "--lr", "1e-9"],
}
SEVERAL = ("SimVE", "SimCLR", "bridge")


def main() -> None:
    folders = compared(__doc__ or "", SETTINGS, SEVERAL, Path("runs/limits"))
    results = {name: [json.loads((run / "results.json").read_text()) for run in runs] for name, runs in folders.items()}
    commits = {json.loads((run / "config.json").read_text())["commit"] for runs in folders.values() for run in runs}
    for representation in ("backbone", "z"):
        print(f"{representation}, commits {', '.join(sorted(map(str, commits)))}\n\n{table(results, representation)}\n")


def table(results: dict[str, list[dict[str, Any]]], representation: str) -> str:
    """Markdown: a row a setting, mean ± sd over its seeds."""
    scores = {name: [scores_of(run, representation) for run in runs] for name, runs in results.items()}
    measures = next(iter(scores.values()))[0]
    lines = [f"| | seeds | {' | '.join(measures)} |", f"|{'---|' * (len(measures) + 2)}"]
    for name, runs in scores.items():
        cells = [spread([run[measure] for run in runs], 3) for measure in measures]
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def scores_of(results: dict[str, Any], representation: str) -> dict[str, float]:
    """The scores of a representation by heading."""
    records = [record for record in results["records"] if record["representation"] == representation]
    headings = {"linear": "linear", "knn": "k-NN", "mean": "mean R²"}
    found = {record["target"] or record["probe"]: record["value"] for record in records}
    return {headings.get(name, name): value for name, value in found.items()}


if __name__ == "__main__":
    main()
