"""Ground floor: what needs no network of ours. Imports nothing of `models`, `training` or the commands.

Rooms: `data` (labels and pictures), `losses`, `evaluation`, `detections` (what is made of results),
`checkpoints`, `counting` (what a network costs), `plots`. Beside them single modules; begin with `boxes.py`
and `files.py`.
"""
