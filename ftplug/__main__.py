"""``python -m ftplug``: what ``torchrun -m ftplug run …`` starts."""

from ftplug.cli import main

main()
