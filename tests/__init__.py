"""The tests; a package only so that helpers can be imported as `tests.support_x`."""
