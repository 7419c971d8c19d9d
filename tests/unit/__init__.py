"""Tests that need no kernel: they run anywhere, as any user."""
