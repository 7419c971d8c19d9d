"""What explain and ps read, infer, find and print."""
