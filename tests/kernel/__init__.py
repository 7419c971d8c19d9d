"""Tests against the real kernel: real namespaces, real rules, real packets."""
