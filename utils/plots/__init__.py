"""Pictures of a run: training progress, label statistics, batches, precision and recall, confusion.

One plot a file, all on `canvas.py`. May import `utils.data` and `utils.evaluation.metrics`; matplotlib loads
on use.
"""

from utils.plots.batches import plot_batch
from utils.plots.confusion import plot_confusion_matrix
from utils.plots.curves import plot_curves
from utils.plots.labels import plot_labels
from utils.plots.progress import plot_results

__all__ = ["plot_batch", "plot_confusion_matrix", "plot_curves", "plot_labels", "plot_results"]
