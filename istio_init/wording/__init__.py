"""One word an outcome, sentences, and commands to paste. Pure."""
