"""``python -m istio_init``."""

from istio_init.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
