"""What differs between the two clients and no rewriting of words can bridge: the same names, written twice by hand."""
