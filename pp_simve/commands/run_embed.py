"""The features of images by a fitted run, written to a file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console

from pp_simve.commands.opened import one_run
from pp_simve.commands.options import EmbedConfig
from pp_simve.errors import optional_module
from pp_simve.inference.progress_bar import counted
from pp_simve.inference.tools import write_whole
from pp_simve.run.console import plain


def embed_images(config: EmbedConfig) -> int:
    """Embeds the images; the exit code."""
    console = Console(quiet=config.quiet, highlight=False)
    say = plain(console)
    if config.out.suffix == ".parquet":
        optional_module("pyarrow", "parquet", "a .parquet file")
    with one_run(config, console, config.device) as run, counted(console, "embedding") as progress:
        found = run.embed(
            run.named_data(config.data),
            config.names,
            views=config.views,
            draws=config.draws,
            split=config.split,
            batch_size=config.batch_size,
            seed=config.seed,
            progress=progress,
            notes=lambda note: say(f"note: {note}"),
            **config.reading,
        )
    write_features(config.out, found)
    shapes = ", ".join(f"{name} {values.shape}" for name, values in found.items() if values.ndim == 2)
    say(f"{shapes} written to {config.out}")
    return 0


def write_features(path: Path, found: Mapping[str, NDArray[Any]]) -> None:
    """Writes features by name: all arrays (npz), the only features (npy), or a column for each feature (parquet)."""
    file = io.BytesIO()
    if path.suffix == ".npy":
        (features,) = (values for values in found.values() if values.ndim == 2)
        np.save(file, features)
    elif path.suffix == ".npz":
        np.savez(file, **found)  # type: ignore[arg-type]  # the stub takes them for allow_pickle
    else:
        table = {
            f"{name}_{place}" if values.ndim == 2 else name: column
            for name, values in found.items()
            for place, column in enumerate(values.T if values.ndim == 2 else [values])
        }
        pd.DataFrame(table).to_parquet(file, index=False)
    write_whole(path, file.getbuffer())
