"""Netfilter as the kernel runs it: what is registered at its hooks, from every store, in the order of evaluation."""
