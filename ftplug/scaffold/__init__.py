"""``ftplug new``: the package of a new method, from templates."""
