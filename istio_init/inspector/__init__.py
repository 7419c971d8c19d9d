"""What a namespace holds, what it means, and what is wrong with it. Nothing here changes anything."""
