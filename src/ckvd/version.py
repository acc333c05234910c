"""The version of the package: the build, the command and `ckvd.__version__` read it here."""

__version__ = "0.1.0"
