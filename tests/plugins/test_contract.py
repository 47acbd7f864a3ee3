"""Every built-in method keeps the contract that a third party's method is held to."""

from contracts import CONTRACTS, built_in, contract

from ftplug.testing import MethodContract

for name in built_in():
    title = "Test" + "".join(part.capitalize() for part in name.split("-"))
    globals()[title] = type(title, (MethodContract,), contract(name))


def test_the_table_names_only_methods_that_exist():
    assert set(CONTRACTS) <= set(built_in())
