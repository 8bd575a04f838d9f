"""What a report knows of its runs, and what it makes of it."""
