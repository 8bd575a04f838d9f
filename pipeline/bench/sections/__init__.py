"""What `make bench` measures, section by section."""
