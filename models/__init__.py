"""First floor: networks. May import `utils`; knows nothing of training.

Begin with `yolo.py` (the detection model) and `parse.py` (how a yaml becomes one). `blocks/` has the layers,
`weights.py` takes weights over, `runtimes/` runs files of any format, `exporting/` writes them, `folding/`
prepares them.
"""
