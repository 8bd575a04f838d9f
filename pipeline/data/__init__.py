"""Datasets: manifests of clips, the audio behind them, and the built-in synthetic speech."""
