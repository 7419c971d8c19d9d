"""What becomes of packets: traced one by one, divided into classes, compared between rule sets, sent for real."""
