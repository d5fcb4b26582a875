"""Labelled data and how well it is answered: tables, roles, metrics and the generated task. No torch here."""
