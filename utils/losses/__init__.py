"""What training minimises: `detection.py` assigns cells and adds up. A box costs what a measure of
`overlaps.py` says, changed by what `composition.py` can do to it; `scores.py` has objectness and classes.
`grammar.py` reads the names that hyper-parameters give to all of them.

Begin with `detection.py`, and with docs/losses.md. Imports `utils.boxes` and the hyper-parameters.
"""
