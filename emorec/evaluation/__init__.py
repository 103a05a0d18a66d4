"""Ranking metrics, full-catalogue ranking and reports."""
