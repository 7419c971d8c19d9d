"""What each program writes of its rules, as values and as text. Pure: no file and no process is touched here."""
