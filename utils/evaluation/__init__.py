"""How good detections are: one pass over a data set, the metrics, COCO's json, and the report.

Begin with `evaluate.py`, which both train.py and val.py call. May import `utils.data`, `utils.detections`,
`utils.losses`, `utils.plots`.
"""
