"""How `lighten.py` teaches a lighter network what a trained one knows, from pictures without labels.

`pair.py` says where the two networks are compared, `losses.py` how, `pictures.py` on what, and `course.py` in
which phases. Imports `models`, `utils` and the rest of `training`.
"""
