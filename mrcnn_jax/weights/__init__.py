"""The weights folder and readers of published weights."""
