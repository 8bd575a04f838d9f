"""Handing caches around: to and from URLs, putting parts together, telling two apart."""
