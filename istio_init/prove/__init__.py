"""What to probe in a namespace, and what a probe's fate says of its rules. Pure but for `validation.py`."""
