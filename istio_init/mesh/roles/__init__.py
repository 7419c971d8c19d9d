"""Why each rule exists, and how a live one is recognised."""
