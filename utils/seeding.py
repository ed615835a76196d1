"""Random numbers that depend on what is drawn, not on when or in which process."""

from __future__ import annotations

import numpy as np


def generator_for(*key: int) -> np.random.Generator:
    """A generator that is a pure function of its key, for example `(seed, epoch, image index)`.

    Runs with different numbers of workers, or a run that was stopped and resumed, draw the same numbers.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
