"""The commands. Only this package prints, exits, and turns errors into exit codes."""
