"""Tools that the whole verification uses: machine facts, options, pictures, stored results on a page."""
