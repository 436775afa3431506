"""Other people's test suites, run with and without the guard; a package only so that its helpers can be imported."""
