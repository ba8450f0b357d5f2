"""``python -m wsikit.cli`` is ``wsikit``."""

from .main import app

if __name__ == "__main__":
    app()
