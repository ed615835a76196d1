"""Exact algebra that leaves a network less to do: what `models.deploy.deploy` is made of.

Begin with `rules.py`, what can be folded; `trace.py` gives the graph, `fold.py` applies the rules,
`checked.py` compares. May import `models.blocks` and `models.parse`.
"""
