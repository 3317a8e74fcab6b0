"""The page of a run: report.html, which needs nothing beside itself, and what it says of what lies in the folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pp_simve.data import ImageData
from pp_simve.errors import ConfigError
from pp_simve.evaluation.multimodal import SingleModality
from pp_simve.evaluation.subject import EVALUATION_SEED
from pp_simve.inference.augmentations import draw_views
from pp_simve.inference.tools import write_whole
from pp_simve.reporting.embedding import Embedding, umap_points
from pp_simve.reporting.page import page
from pp_simve.reporting.pictures import of_one_size
from pp_simve.run.config import read_config
from pp_simve.run.folder import RunFolder
from pp_simve.run.methods import Program
from pp_simve.run.viewing import Viewing, is_vector

MAP = "map.safetensors"
"""What the page draws its map from, kept so that it can be written again without the fitted program and its data."""


def write_report(folder: RunFolder, embedding: Embedding | None = None) -> Path:
    """Writes report.html of a run from what lies in its folder; what is not there is left out, or said to be missing.

    Whatever changes a file of the folder (results.json, evaluation.json, diagnostics.json, figures) calls it again,
    without an embedding: the map stays as it is.

    Args:
        folder: has a config.json at least.
        embedding: what to draw a map of, see `embed_test`; None takes that of the last time.

    Returns:
        The file.

    Raises:
        ConfigError: no run folder, or a file in it is damaged.
        OSError: the page cannot be written.
    """
    kept = folder.path / MAP
    settings = read_config(folder.path / "config.json")
    if embedding is not None:
        embedding.write(kept)
    elif kept.exists():
        embedding = Embedding.read(kept)
    diagnostics: Any = _entries(folder.path / "diagnostics.json")
    html = page(
        settings,
        _entries(folder.path / "results.json"),
        folder.read_metrics(),
        {path.stem: path.read_bytes() for path in sorted((folder.path / "figures").glob("*.png"))},
        embedding,
        _entries(folder.path / "evaluation.json"),
        diagnostics,
    )
    path = folder.path / "report.html"
    write_whole(path, html.encode())
    return path


@torch.no_grad()
def embed_test(program: Program, viewing: Viewing, data: ImageData, count: int = 1000) -> Embedding:
    """z of a view of each of the first test images, of each kind, for the map of a report.

    With umap-learn installed (``pip install "pp_simve[maps]"``) also placed by UMAP, which takes some seconds.

    Args:
        program: fitted.
        viewing: how views are drawn.
        data: its test images are a fair sample, however many are taken.
        count: views at most, over all kinds.
    """
    device = next(program.objective.parameters()).device
    images = {
        kind: of_modality[: max(1, count // len(viewing.policies))]
        for kind, of_modality in viewing.images(data.test).items()
    }
    shown = len(next(iter(images.values())))
    found: dict[str, list[Tensor]] = {"z": [], "pictures": []}
    parameters: list[Mapping[str, Tensor]] = []
    for kind, of_modality in images.items():
        generator = torch.Generator(device).manual_seed(EVALUATION_SEED)
        views, drawn = draw_views(viewing.policies[kind], of_modality.to(device), 1, generator=generator)
        guide = program.guide if kind is None else SingleModality(program.guide, str(kind))
        found["z"].append(guide.embed_batches(views[0]).z.float().cpu())
        # A vector is no picture: the image that it belongs to stands for it.
        vector = is_vector((of_modality.shape[1], of_modality.shape[2], of_modality.shape[3]))
        found["pictures"].append(data.test.images[:shown] if vector else (255 * views[0]).round().byte().cpu())
        parameters.append({name: values[0].cpu() for name, values in drawn.items()})
    names = list(dict.fromkeys(name for drawn in parameters for name in drawn))
    absent = torch.full((shown,), torch.nan)
    labels = data.test.labels
    z = torch.cat(found["z"])
    placed = umap_points(z, EVALUATION_SEED)
    return Embedding(
        z=z,
        pictures=of_one_size(found["pictures"]),
        labels=None if labels is None else labels[:shown].cpu().repeat(len(images)),
        classes=data.classes,
        kinds=[] if viewing.modalities is None else [str(kind) for kind in images for _ in range(shown)],
        parameters={name: torch.cat([drawn.get(name, absent) for drawn in parameters]) for name in names},
        placed={} if placed is None else {"UMAP": placed},
    )


def _entries(path: Path) -> Mapping[str, Any] | None:
    """A JSON object; None where there is no such file."""
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"{path} is damaged ({error}); delete it, or run again the command that wrote it") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is damaged (no JSON object); delete it, or run again the command that wrote it")
    return found
