"""The report on a set: `python -m training data stats`, as a page and as JSON.

`collect` reads every row once and gives the figures as plain data, which are stats.json. `page`
makes the page of these figures and of nothing else, so both tell the same numbers. `sheets` adds
the pictures.
"""
