# setup.cfg reads this without importing the package; it imports nothing, so that any room may import it.
__version__ = "0.1.0.dev0"
