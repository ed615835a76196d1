"""The kinds of things that `dataset.py check` finds, each a small function from a `Survey` to a `Found`.

May import what `curation` may. `finding.py` has the form of a finding, `kinds.py` the list of all kinds with
their words; to add one, write a function in the file of its subject and a row in that list.
"""
