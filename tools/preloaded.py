"""What the methods import late, imported once: each process of the sweep is forked after it."""

import gc

import trial

import ftplug
from ftplug.testing import tiny

for setting, values in trial.SETTINGS.items():
    ftplug.apply(tiny.bert(), *trial.methods(setting), **values)
gc.freeze()  # a process that is forked looks through none of it
