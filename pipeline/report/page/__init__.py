"""The page, part by part."""
