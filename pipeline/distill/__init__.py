"""Stage two: students trained against a cache. Imports neither the teacher's code nor transformers."""
