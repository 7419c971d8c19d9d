"""Rule sets as text, and text as rule sets. Pure: no file and no process is touched here."""
