"""The model zoo: cards today; push, pull, search and verify build on them."""
