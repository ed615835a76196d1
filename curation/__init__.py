"""What `dataset.py` runs: looking at a data set, and finding what is wrong with it.

Top floor: may import everything, and only `dataset.py` imports it. Each subcommand is a module with `Config`
and `run`. `survey.py` holds a whole data set in flat arrays; `findings/` has a small function for each kind
of fault, and `findings/kinds.py` lists them all.
"""
