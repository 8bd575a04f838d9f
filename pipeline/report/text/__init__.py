"""A report in words: tables, verdict, commands."""
