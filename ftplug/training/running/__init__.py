"""``ftplug run``: a script in this process, and in those that it starts."""
