"""A zoo as pages for a browser: ``ftplug site`` writes them, ``ftplug serve`` shows them.

Reading order: ``found`` (what a place holds of an artifact), ``artifact`` (what that means),
``folders`` and ``published`` (the places, ``collecting`` chooses), ``pages`` with ``facts``,
``pictures`` and ``cards`` (how it is shown), ``writing``.
"""
