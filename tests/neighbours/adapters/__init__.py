"""One file per neighbour, named as the table names it."""
