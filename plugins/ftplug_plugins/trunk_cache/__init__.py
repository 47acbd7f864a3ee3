"""The outputs of frozen layers, kept from the first epoch on."""
