"""What each program writes of its rules: read, written, and lowered to the model of netfilter."""
