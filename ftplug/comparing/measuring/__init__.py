"""What is measured of a script in a cell.

Reading order: ``watching``, ``evaluations``, ``answers``, ``gathering``.

``metrics`` says which metric counts, ``sets`` which data were evaluated, ``examples`` how an
example is known, ``losses`` how a loss is divided among examples, ``forgetting`` how far a language
model has moved from its base.
"""
