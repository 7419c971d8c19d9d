"""Tests of the test kit that users get."""
