"""The table and the figure of the stored runs."""


def table(folder):
    return ""
