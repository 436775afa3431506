"""Tests of the vendor double, which judges in other tests."""
