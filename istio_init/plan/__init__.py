"""What has to change for a live rule set to become the wanted one."""
