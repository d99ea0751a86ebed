"""Estimators of near points: neighbours, clusters, densities."""
