"""Numbers on what models make: of the shapes domain, of the field, of the paper's comparisons."""
