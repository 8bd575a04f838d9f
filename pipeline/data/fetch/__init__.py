"""Files from the web, and what is packed in them."""
