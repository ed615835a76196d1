"""What training minimises: `detection.py` assigns cells and adds up, `box.py` compares boxes
by the overlap measures of `utils.boxes`.

Begin with `detection.py`. Imports `utils.boxes` and the hyper-parameters.
"""
