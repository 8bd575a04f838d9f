"""The stages of tkd: data, teacher, cache building (stage one), distillation (stage two), reports."""
