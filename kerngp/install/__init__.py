"""What the installation needs beyond the package itself; used by ``python -m kerngp`` alone."""
