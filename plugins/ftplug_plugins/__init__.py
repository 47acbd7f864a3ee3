"""The built-in methods: one file each, written as a third party would write it."""
