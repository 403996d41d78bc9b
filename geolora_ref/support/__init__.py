"""What every room uses and no reader of the paper needs: files, terminals, options, messages of missing libraries."""
