"""Checks against recorded states of the reference implementation."""
