"""Services that are told of a training run: TensorBoard, MLflow, Comet, ClearML, Weights & Biases.

`opening.py` has the door, `Loggers`, and the table of services; `logger.py` says what one has to do. Nothing
of a service is imported before `--loggers` names it. May import the floors below `training`.
"""
