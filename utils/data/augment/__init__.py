"""What happens to a training picture, one transform a file; `recipe.py` puts them in order.

A picture and what is on it are a `Picture` (`picture.py`, `objects.py`). Imports nothing but `letterbox.py`,
`hyperparameters.py` and numbers; begin with `recipe.py`.
"""
