"""Tests of the double of what Keybrake's pages show, before which other tests put the remote backend."""
