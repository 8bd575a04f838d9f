"""Built-in data: words spoken by espeak-ng, and noise made from a seed."""
