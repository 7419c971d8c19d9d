"""All packets at once: the outcomes of a rule set as regions, and where two rule sets differ. Pure."""
