"""Checkpoint files: written atomically with a checksum, read without executing anything they contain."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pp_simve.inference.sealing import read_sealed, sealed
from pp_simve.inference.tools import write_whole


class CheckpointError(ValueError):
    """Damaged checkpoint, or one of another program."""


@dataclass(frozen=True)
class CheckpointFile:
    """File of the state a fit resumes from: parameters, optimizer, random states, position in the data."""

    path: Path

    def exists(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return self.path.is_file()

    def save(self, state: dict[str, Any]) -> None:
        """Replaces the checkpoint; tensors, numbers, strings and containers of them only."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_whole(self.path, sealed(buffer.getbuffer()))

    def load(self) -> dict[str, Any]:
        """The last saved state, its tensors on the CPU.

        Raises:
            CheckpointError: the file is missing, damaged or holds something else.
        """
        try:
            state = torch.load(io.BytesIO(read_sealed(self.path)), map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file can raise any error in torch's reader
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"{self.path} cannot be read as a checkpoint ({reason}); "
                "it is missing, damaged or of another program; start a new fit"
            ) from None
        if not isinstance(state, dict):
            raise CheckpointError(f"{self.path} holds a {type(state).__name__} and no checkpoint; start a new fit")
        return state
