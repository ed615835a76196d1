"""What a network costs: parameters, operations, memory access, depth; explained in docs/counting.md.

Begin with `measure.py`. `conventions.py` says what counts, `meter.py` follows a forward pass operator by
operator, `operators.py` and `thop.py` have the rules. Imports torch and nothing of ours.
"""
