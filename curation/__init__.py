"""What `dataset.py` runs: data sets are converted, split and looked at, and never changed in place.

A subcommand a module, with its flags (`Config`) and `run`; `opening.py` opens a data set of any format,
`writing.py` writes pictures, labels and the data yaml. Stands beside the commands: may import `utils`,
`models` and `training`.
"""
