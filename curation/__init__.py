"""What `dataset.py` runs: data sets are converted, split, looked at and searched for faults.

None is changed in place. A subcommand is a module, with its flags (`Config`) and `run`. `opening.py` opens a
data set of any format, `writing.py` writes pictures, labels and the data yaml; `survey.py` holds a whole data
set in flat arrays, and `findings/` has a small function for each kind of fault, which `findings/kinds.py`
lists. Stands beside the commands: may import `utils`, `models` and `training`.
"""
