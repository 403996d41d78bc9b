"""The report of a trial: rows and totals, as data, text, JUnit XML and scoreboard."""
