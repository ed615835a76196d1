"""Our pieces behind the names, arguments and results that scripts written around YOLOv5 expect.

The files that such scripts import from (`utils/general.py`, `utils/dataloaders.py`, …) only pass these on.
Nothing else in the project uses them, but for `flags.py`, which the commands read. May import all of `utils`
but `utils.plots`. Begin with `docs/compatibility.md`, which says of each name what works and what differs.
"""
