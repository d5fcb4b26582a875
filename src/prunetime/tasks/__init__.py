"""Labelled data and how well it is answered: tables, roles, metrics and generated tasks. No torch here."""
