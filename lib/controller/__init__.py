"""What runs on top of the database: the daemon of one unit and the operator's command."""

__all__ = ["__version__"]

__version__ = "0.1.0"
