"""Recordings of one's own: found, checked, labelled and dealt to splits."""
