"""What is measured of a segment while its frames pass, one step per module."""

FEATURES = ("motion", "clarity", "picture", "text", "clip")
"""The steps of `data features`, in the order in which they are listed."""
