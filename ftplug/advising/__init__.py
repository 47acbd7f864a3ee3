"""``ftplug advise``: what would make a script's training cheaper, each with a figure."""
