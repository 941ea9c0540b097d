"""How results are presented: on the console, as HTML pages, in figures."""
