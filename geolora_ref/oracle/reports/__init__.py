"""The report of a trial: rows and totals, as data, as text and as a table of several backends."""
