"""VBench and VBench-I2V: videos for them, and their scores from the official package's results.

The package itself needs an environment of its own (it asks for numpy below 2), so it runs there:
`vbench-export` renders what it scores, `vbench-import` reads what it wrote.
"""
