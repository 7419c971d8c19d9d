"""Frozen values for what netfilter holds: pure, without any dialect's text."""
