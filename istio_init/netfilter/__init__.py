"""Netfilter as the kernel runs it: what is registered at its hooks, in the order of evaluation, whoever wrote it."""
