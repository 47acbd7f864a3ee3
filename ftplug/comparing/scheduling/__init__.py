"""Which cells run, and when.

Reading order: ``planning`` (what a comparison needs), ``budget``, ``pruning``, ``schedule`` (the
loop), ``live`` (what is shown meanwhile).
"""
