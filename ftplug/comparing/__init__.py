"""``ftplug compare``: which method, at which learning rate, is best for somebody's own script.

A **candidate** is what ``--try`` names, a **cell** one run of the script: a candidate at a learning
rate with a seed. Reading order: ``results`` (what a cell leaves), ``outcomes`` (its answers by
example), ``concluding`` (what follows from them).
"""
