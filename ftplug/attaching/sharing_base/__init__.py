"""Models that hold the same base in memory: ``ftplug.load(base, artifact, share_base=True)``.

:mod:`.copied` makes the second model object, whose parameters are its own and lie over the base's
memory (:mod:`.held`: what a function would keep of the base's own); :mod:`.memory` knows which
parameters lie in the same one; :mod:`.shared` notes what a model shares, and gives it its own
before it is written; :mod:`.writes` refuses a method that writes while it is put on;
:mod:`.checking` looks whether all is still as it was, and at the steps of optimizers.
"""
