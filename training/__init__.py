"""Second floor: all that moves weights. May import `utils` and `models`; commands and benchmarks import it.

Begin with `train.py` in the root, the recipe; `setup.py` builds what it needs, `engine.py` runs one epoch,
`state.py` is all that changes and what a resume restores, `optim.py` the optimizer and its schedule.
"""
