"""What every room of the verification uses: machine facts, options, pictures, stored results on a page."""
