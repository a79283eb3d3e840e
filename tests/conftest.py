"""Settings that every test shares."""

from hypothesis import settings

# Draws are seeded, so a failure repeats everywhere; two shared cores make deadlines per example meaningless.
settings.register_profile("graphattn", derandomize=True, deadline=None, max_examples=30, database=None)
settings.load_profile("graphattn")
