"""Numbers with their uncertainty, from arrays: no network is known here."""
