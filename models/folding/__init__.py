"""Exact algebra that leaves a network less to do: what `models.deploy.deploy` is made of.

Begin with `rules.py`, what can be folded; `algebra.py` is what convolutions are together, `forms.py` which of
equal forms is taken. In order: `trace.py` gives a flat graph; `fold.py` walks it and applies the rules, which
turn it into `sources.py` (who makes which channel; `convolution.py` and `head.py` are kinds of these,
`layout.py` is the order of their channels in memory); `slices.py` cuts what is read in pieces; `builder.py`
writes the new graph; `checked.py` compares it with the old one. May import `models.blocks`, `models.parse`
and `models.yolo`.
"""
