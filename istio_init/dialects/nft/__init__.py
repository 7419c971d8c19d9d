"""Rules as nft writes them: read from its JSON (libnftables-json(5)), lowered to the model, and printed."""
