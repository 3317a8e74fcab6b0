"""Data trees made of parts, some images each: joined in memory, or written to a file one after another."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import xarray as xr

Groups = Mapping[str, xr.Dataset]
"""Variables by group, for some images along the dimension ``image``. What has no such dimension counts once."""

FORMAT = "pp_simve posterior 1"
"""What the files say they are; the number grows when groups, names or dimensions change."""

CHUNK_BYTES = 2**20
"""Of a variable, read and checked at once. All draws of an image are together, because they are what is asked for."""

_PIXELS = ("prior_predictive", "posterior_predictive", "observed_data")


class PosteriorFileError(ValueError):
    """A file is not there, damaged, or no posterior of this version."""


def joined(parts: Iterable[Groups], attributes: Mapping[str, Any]) -> xr.DataTree:
    """All parts as one tree in memory."""
    found: dict[str, list[xr.Dataset]] = {}
    for part in parts:
        for group, dataset in part.items():
            found.setdefault(group, []).append(dataset)
    tree = xr.DataTree.from_dict(
        {
            group: datasets[0]
            if len(datasets) == 1
            else xr.concat(
                datasets,
                "image",
                data_vars="minimal",
                coords="minimal",
                compat="override",
                join="exact",
                combine_attrs="no_conflicts",
            )
            for group, datasets in found.items()
        }
    )
    tree.attrs = {"format": FORMAT, **attributes}
    return tree


def write(path: Path, parts: Iterable[Groups], images: int, attributes: Mapping[str, Any]) -> None:
    """All parts as one netCDF file, with no more than a part in memory.

    The file is written under a temporary name beside ``path`` and renamed, so that no half file ever has the name.

    Args:
        path: of the file; an older one is replaced.
        parts: they must have as many images together as ``images``, and as many each as the first, but for those that
            are fewer.
        attributes: of the whole: text, numbers or lists of numbers.

    Raises:
        OSError: the disk is full, the folder is not there or not writable; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with h5netcdf.File(temporary, "w") as file:
            file.attrs.update({"format": FORMAT, **attributes})
            start = 0
            for part in parts:
                stop = start + max(dataset.sizes.get("image", 0) for dataset in part.values())
                for group, dataset in part.items():
                    if group not in file.groups:
                        _declare(file.create_group(group), dataset, images)
                    for name, values in dataset.variables.items():
                        _write(file.groups[group].variables[str(name)], values, start, stop)
                start = stop
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def open_posterior(path: Path | str) -> xr.DataTree:
    """A tree that `posterior` wrote; values are read when they are asked for.

    ``tree.isel(image=slice(100))`` and then a computation reads those images only. Every chunk has a checksum: one that
    was damaged raises OSError when it is read. Close it (``tree.close()``) when done.

    Raises:
        PosteriorFileError: no such file, not a posterior of this version, or a damaged one.
    """
    path = Path(path)
    if not path.is_file():
        raise PosteriorFileError(f"there is no file {path}; posterior(..., to={str(path)!r}) writes one")
    try:
        tree = xr.open_datatree(path, engine="h5netcdf")
    except Exception as error:  # a damaged file can fail anywhere in the readers, with any type of error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PosteriorFileError(
            f"{path} cannot be read ({reason}): it is damaged or no netCDF file; write it again"
        ) from None
    found = tree.attrs.get("format")
    missing = [group for group in ("posterior", "observed_data", "constant_data") if group not in tree.children]
    if found == FORMAT and not missing:
        return tree
    tree.close()
    if found is None:
        raise PosteriorFileError(
            f"{path} is a netCDF file, but not a posterior of pp_simve: it has no attribute format"
        )
    if found != FORMAT:
        raise PosteriorFileError(
            f"{path} is of another version: its format is {found!r}, this pp_simve reads {FORMAT!r}; write it again, "
            "or open it with xarray.open_datatree"
        )
    raise PosteriorFileError(f"{path} lacks {', '.join(missing)}: it is damaged; write it again")


def _declare(group: Any, dataset: xr.Dataset, images: int) -> None:
    sizes = {str(dim): images if dim == "image" else size for dim, size in dataset.sizes.items()}
    group.dimensions = sizes
    for name, values in dataset.variables.items():
        text = values.dtype.kind in "US"
        settings: dict[str, Any] = {}
        if values.ndim and not text:
            settings = {"chunks": _chunks(values, sizes), "fletcher32": True}
            if group.name.strip("/") in _PIXELS and name not in dataset.dims:
                settings |= {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        variable = group.create_variable(
            str(name), tuple(map(str, values.dims)), h5py.string_dtype() if text else values.dtype, **settings
        )
        variable.attrs.update(values.attrs)


def _chunks(values: xr.Variable, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """All of every dimension but ``image``, of which as many as fit; by halves, so that parts are whole chunks."""
    images = values.sizes.get("image", 1)
    of_one = values.nbytes // images
    while images > 1 and images * of_one > CHUNK_BYTES:
        images = (images + 1) // 2
    return tuple(images if dim == "image" else max(1, sizes[str(dim)]) for dim in values.dims)


def _write(variable: Any, values: xr.Variable, start: int, stop: int) -> None:
    where = tuple(slice(start, stop) if dim == "image" else slice(None) for dim in values.dims)
    data = values.to_numpy()
    variable[where or ...] = data.astype(object) if data.dtype.kind == "U" else data
