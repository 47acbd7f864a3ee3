"""The processes of a comparison's cells.

A server imports everything once and forks a keeper for each cell (``warm``); the keeper forks the
cell, watches it and what may end it (``keeper``); the cell runs the script (``inside``).
"""
