"""Settings that every test shares."""

import os
from pathlib import Path

from hypothesis import settings

# the shipped constants, whatever this machine was calibrated to
os.environ["GRAPHATTN_COSTS"] = str(Path(__file__).parent / "no_such_file.json")

# Draws are seeded, so a failure repeats everywhere; two shared cores make deadlines per example meaningless.
settings.register_profile("graphattn", derandomize=True, deadline=None, max_examples=30, database=None)
settings.load_profile("graphattn")
