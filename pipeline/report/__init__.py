"""Tables and figures from complete runs."""
