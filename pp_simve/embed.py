"""Embeds images by a fitted run: features for scikit-learn and other tools.

For instance: python -m pp_simve.embed runs/digits-simve-20261124-120000 --data folder:PATH --out features.npz

The features of each image (posterior means of content, style and z, and the encoder's backbone) with its file, its
position in the source and its label. Images are read as those of the fit unless flags say otherwise.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pp_simve.commands.options import EmbedConfig
from pp_simve.run.console import exit_code, parsed


def main(arguments: Sequence[str] | None = None, program: str = "python -m pp_simve.embed") -> int:
    """Runs the command line; the exit code."""
    given = sys.argv[1:] if arguments is None else arguments

    def run() -> int:
        config = parsed(EmbedConfig, given, program, description=__doc__)
        from pp_simve.commands.run_embed import embed_images

        return embed_images(config)

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
