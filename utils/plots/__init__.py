"""Pictures of a run: training progress, label statistics, batches, precision and recall, confusion.

One plot a file, on `canvas.py`; `pictures.py` draws batches, beside a run. May import `utils.data`,
`utils.detections` and `utils.evaluation.metrics`; matplotlib loads on use. Scripts written around YOLOv5 find
`Annotator` and its kin here.
"""

from utils.adapters.drawing import Annotator, colors, plot_one_box, save_one_box

__all__ = ["Annotator", "colors", "plot_one_box", "save_one_box"]
